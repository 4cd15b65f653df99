// Public key → peer slot. Open addressing with a seeded hash over 4-byte cells; the keys themselves stay with the
// peers, so a million peers cost 8 to 16 MB here. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {

class KeyIndex {
 public:
  explicit KeyIndex(Random& random) : cells_(16, kNoPeer) {
    for (auto& seed : seeds_) seed = random.next_u64() | 1;
  }

  // `key_of(PeerIndex) -> const PublicKey&` for every function. kNoPeer: unknown.
  template <typename KeyOf>
  [[nodiscard]] PeerIndex find(const PublicKey& key, const KeyOf& key_of) const {
    for (std::size_t i = home(key);; i = next(i)) {
      if (cells_[i] == kNoPeer || key_of(cells_[i]) == key) return cells_[i];
    }
  }

  // Precondition: the peer's key is not in the index.
  template <typename KeyOf>
  void insert(PeerIndex peer, const KeyOf& key_of) {
    if (++size_ * 2 > cells_.size()) {
      std::vector<PeerIndex> old(cells_.size() * 2, kNoPeer);
      old.swap(cells_);
      for (const PeerIndex other : old)
        if (other != kNoPeer) place(other, key_of);
    }
    place(peer, key_of);
  }

  template <typename KeyOf>
  void erase(PeerIndex peer, const KeyOf& key_of) {
    std::size_t hole = home(key_of(peer));
    while (cells_[hole] != peer) hole = next(hole);
    --size_;
    // Moves up whoever stands behind the hole and may stand in it (linear probing without tombstones).
    for (std::size_t i = next(hole); cells_[i] != kNoPeer; i = next(i)) {
      const std::size_t distance_home = (i - home(key_of(cells_[i]))) & (cells_.size() - 1);
      const std::size_t distance_hole = (i - hole) & (cells_.size() - 1);
      if (distance_home < distance_hole) continue;
      cells_[hole] = cells_[i];
      hole = i;
    }
    cells_[hole] = kNoPeer;
  }

 private:
  [[nodiscard]] std::size_t next(std::size_t i) const { return (i + 1) & (cells_.size() - 1); }
  [[nodiscard]] std::size_t home(const PublicKey& key) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const auto product =
          static_cast<unsigned __int128>(load_le<std::uint64_t>(key.bytes.data() + 8 * i) ^ seeds_[i]) * seeds_[i + 4];
      sum += static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product);
    }
    return static_cast<std::size_t>(sum) & (cells_.size() - 1);
  }
  template <typename KeyOf>
  void place(PeerIndex peer, const KeyOf& key_of) {
    std::size_t i = home(key_of(peer));
    while (cells_[i] != kNoPeer) i = next(i);
    cells_[i] = peer;
  }

  std::vector<PeerIndex> cells_;  // a power of two, at most half full
  std::size_t size_ = 0;
  std::uint64_t seeds_[8];
};

}  // namespace penstock::wireguard
