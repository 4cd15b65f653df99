// Which receiver indices are ours, and whose. An index is 32 random bits: the low ones are its slot, the others the tag
// that a message must carry too, so that an index of a dead session hits its successor in the slot only by chance.
// The table is at most half full, hence a few tries find a free slot. One thread (workers use DataPath's table).
#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

class IndexTable {
 public:
  static std::size_t slots_for(std::size_t max_used) { return std::bit_ceil(max_used * 2); }

  explicit IndexTable(std::size_t max_used)
      : owners_(slots_for(max_used)), mask_(static_cast<std::uint32_t>(owners_.size() - 1)), max_used_(max_used) {}

  // nullopt: the table is full.
  std::optional<std::uint32_t> allocate(PeerIndex peer, Random& random) {
    if (used_ >= max_used_) return std::nullopt;
    for (;;) {
      const std::uint32_t index = random.next_u32();
      Owner* owner = &owners_[index & mask_];
      if (owner->peer_plus_one != 0) continue;
      *owner = Owner{index, peer + 1};
      ++used_;
      return index;
    }
  }

  void release(std::uint32_t index) {
    Owner& owner = owners_[index & mask_];
    if (owner.peer_plus_one == 0 || owner.index != index) return;
    owner = Owner{};
    --used_;
  }

  [[nodiscard]] PeerIndex owner(std::uint32_t index) const {
    const Owner& owner = owners_[index & mask_];
    return owner.peer_plus_one != 0 && owner.index == index ? owner.peer_plus_one - 1 : kNoPeer;
  }

  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  struct Owner {
    std::uint32_t index;
    std::uint32_t peer_plus_one;  // 0: free
  };
  ZeroedArray<Owner> owners_;
  std::uint32_t mask_;
  std::size_t max_used_;
  std::size_t used_ = 0;
};

}  // namespace penstock::wireguard
