// Addresses from which our peers may be expected to speak: those the control process has named, and those they were
// last heard from. While a flood of forged handshakes goes on, messages from these (within their rate limit) are served
// without a cookie, so that the tunnels of those who are known neither end nor wait.
//
// One writer (the Device's thread); any thread may ask. Counted, since peers share addresses behind a NAT. A fixed
// table of 8-byte slots: a 48-bit fingerprint under a secret seed and the count, so that a stranger passes for known
// with a chance of 2^-47 for every address in the table. When it is full, further addresses are not known, which costs
// them a cookie.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/wireguard/source_key.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

class KnownSources {
 public:
  KnownSources(std::size_t expected, Random& random)
      : slots_(std::bit_ceil(expected * 2 + 64), Pages::small), mask_(slots_.size() - 1), seed_(random.next_u64()) {}

  // --- The writer

  void add(const IpAddress& source) {
    const std::uint64_t tag = tag_of(source);
    std::size_t at = home(tag);
    for (std::uint64_t there = 0; (there = slots_[at].load(relaxed)) != 0; at = next(at)) {
      if (tag_in(there) != tag) continue;
      if (count_in(there) < kManyPeers) slots_[at].store(there + 1, relaxed);
      return;
    }
    if (used_ >= slots_.size() / 2) return;
    ++used_;
    slots_[at].store(tag | 1, relaxed);
  }

  void remove(const IpAddress& source) {
    const std::uint64_t tag = tag_of(source);
    std::size_t hole = home(tag);
    std::uint64_t there = 0;
    while (tag_in(there = slots_[hole].load(relaxed)) != tag) {
      if (there == 0) return;  // there was no room for it
      hole = next(hole);
    }
    if (count_in(there) == kManyPeers) return;  // nobody has counted further: stays known
    if (count_in(there) > 1) {
      slots_[hole].store(there - 1, relaxed);
      return;
    }
    --used_;
    // Closes the gap (linear probing without tombstones). Who asks meanwhile may miss one that is being moved: it is a
    // stranger for that moment.
    for (std::size_t i = next(hole);; i = next(i)) {
      const std::uint64_t other = slots_[i].load(relaxed);
      if (other == 0) break;
      if (((i - home(other)) & mask_) < ((i - hole) & mask_)) continue;
      slots_[hole].store(other, relaxed);
      hole = i;
    }
    slots_[hole].store(0, relaxed);
  }

  // --- Any thread

  // How many peers may be expected to speak from there; 0: a stranger.
  [[nodiscard]] std::uint32_t peers_at(const IpAddress& source) const { return peers_with(tag_of(source)); }
  [[nodiscard]] bool contains(const IpAddress& source) const { return peers_at(source) != 0; }

  // The same in two steps, for bursts: the table is larger than any cache.
  [[nodiscard]] std::uint64_t prefetch(const IpAddress& source) const {
    const std::uint64_t tag = tag_of(source);
    prefetch_read(&slots_[home(tag)]);
    return tag;
  }
  [[nodiscard]] std::uint32_t peers_with(std::uint64_t tag) const {
    for (std::size_t at = home(tag);; at = next(at)) {
      const std::uint64_t there = slots_[at].load(relaxed);
      if (tag_in(there) == tag) return count_in(there);
      if (there == 0) return 0;
    }
  }

 private:
  static constexpr auto relaxed = std::memory_order_relaxed;
  static constexpr std::uint32_t kManyPeers = 0xffff;

  static std::uint64_t tag_in(std::uint64_t slot) { return slot & ~std::uint64_t{kManyPeers}; }
  static std::uint32_t count_in(std::uint64_t slot) { return static_cast<std::uint32_t>(slot & kManyPeers); }
  // Never zero, which a free slot is.
  [[nodiscard]] std::uint64_t tag_of(const IpAddress& source) const {
    return tag_in(seeded_hash(source_network(source), seed_)) | std::uint64_t{1} << 63;
  }
  [[nodiscard]] std::size_t home(std::uint64_t slot) const { return slot >> 16 & mask_; }
  [[nodiscard]] std::size_t next(std::size_t at) const { return (at + 1) & mask_; }

  ZeroedArray<std::atomic<std::uint64_t>> slots_;  // fingerprint, and in the low 16 bits the count; 0: free
  std::size_t mask_;
  std::size_t used_ = 0;
  std::uint64_t seed_;
};

}  // namespace penstock::wireguard
