// Addresses from which our peers may be expected to speak: those the control process has named, and those they were last
// heard from. While a flood of forged handshakes goes on, messages from these (within their rate limit) are served
// without a cookie, so that the tunnels of those who are known neither end nor wait.
//
// One writer (the Device's thread); any thread may ask. Counted, since peers share addresses behind a NAT. A fixed table
// of 64-bit fingerprints under a secret seed: a stranger passes for known with a chance of about 2^-44. When it is full,
// further addresses are not known, which costs them a cookie.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "dataplane/core/base/random.h"
#include "dataplane/core/wireguard/source_key.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

class KnownSources {
 public:
  KnownSources(std::size_t expected, Random& random)
      : slots_(std::bit_ceil(expected * 2 + 64)), mask_(slots_.size() - 1), seed_(random.next_u64()) {}

  // --- The writer

  void add(const IpAddress& source) {
    const std::uint64_t tag = tag_of(source);
    std::size_t at = tag & mask_;
    for (std::uint64_t there = 0; (there = slots_[at].tag.load(relaxed)) != 0; at = next(at)) {
      if (there != tag) continue;
      ++slots_[at].count;
      return;
    }
    if (used_ > slots_.size() / 2) return;
    ++used_;
    slots_[at].count = 1;
    slots_[at].tag.store(tag, relaxed);
  }

  void remove(const IpAddress& source) {
    const std::uint64_t tag = tag_of(source);
    std::size_t hole = tag & mask_;
    while (slots_[hole].tag.load(relaxed) != tag) {
      if (slots_[hole].tag.load(relaxed) == 0) return;  // there was no room for it
      hole = next(hole);
    }
    if (--slots_[hole].count > 0) return;
    --used_;
    // Closes the gap (linear probing without tombstones). Who asks meanwhile may miss one that is being moved: it is a
    // stranger for that moment.
    for (std::size_t i = next(hole);; i = next(i)) {
      const std::uint64_t other = slots_[i].tag.load(relaxed);
      if (other == 0) break;
      const std::size_t home = other & mask_;
      if (((i - home) & mask_) < ((i - hole) & mask_)) continue;
      slots_[hole].count = slots_[i].count;
      slots_[hole].tag.store(other, relaxed);
      hole = i;
    }
    slots_[hole].tag.store(0, relaxed);
  }

  // --- Any thread

  [[nodiscard]] bool contains(const IpAddress& source) const {
    const std::uint64_t tag = tag_of(source);
    for (std::size_t at = tag & mask_;; at = next(at)) {
      const std::uint64_t there = slots_[at].tag.load(relaxed);
      if (there == tag) return true;
      if (there == 0) return false;
    }
  }

 private:
  static constexpr auto relaxed = std::memory_order_relaxed;
  struct Slot {
    std::atomic<std::uint64_t> tag;  // 0: free
    std::uint32_t count;             // the writer's
  };

  [[nodiscard]] std::uint64_t tag_of(const IpAddress& source) const {
    return seeded_hash(source_network(source), seed_) | std::uint64_t{1} << 63;
  }
  [[nodiscard]] std::size_t next(std::size_t at) const { return (at + 1) & mask_; }

  ZeroedArray<Slot> slots_;
  std::size_t mask_;
  std::size_t used_ = 0;
  std::uint64_t seed_;
};

}  // namespace penstock::wireguard
