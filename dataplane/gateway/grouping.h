// Puts what belongs together side by side in a burst: packets of one session, of one peer.
//
// Work that is the same for all packets of a session or peer (finding it, its checks, reserving counters, marking its
// replay window, its outer headers, its statistics) is then done once per group. The order within a group, and hence of
// every flow, is kept. About a dozen instructions per packet; no allocation.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

struct Groups {
  std::array<std::uint8_t, kBurst> order;    // positions, group by group
  std::array<std::uint8_t, kBurst + 1> end;  // group g is order[end[g-1] .. end[g])
  unsigned count = 0;

  [[nodiscard]] unsigned begin_of(unsigned group) const { return group == 0 ? 0 : end[group - 1]; }
};

// Groups positions 0..n-1 (n <= kBurst) by keys, in the order of their first appearance.
inline void group_by(const std::uint32_t* keys, std::size_t n, Groups& out) {
  constexpr unsigned kSlots = 2 * kBurst;
  static_assert(kSlots == 1U << 7);
  constexpr std::uint8_t kNone = 0xff;
  std::array<std::uint8_t, kSlots> slots;  // group, by hash of its key
  std::memset(slots.data(), kNone, sizeof slots);
  std::array<std::uint8_t, kBurst> first, last, next;
  out.count = 0;
  for (std::size_t i = 0; i < n; ++i) {
    unsigned slot = (keys[i] * 0x9e3779b1U) >> (32 - 7);
    while (slots[slot] != kNone && keys[first[slots[slot]]] != keys[i]) slot = (slot + 1) % kSlots;
    next[i] = kNone;
    if (slots[slot] == kNone) {
      slots[slot] = static_cast<std::uint8_t>(out.count);
      first[out.count] = last[out.count] = static_cast<std::uint8_t>(i);
      ++out.count;
    } else {
      const std::uint8_t group = slots[slot];
      next[last[group]] = static_cast<std::uint8_t>(i);
      last[group] = static_cast<std::uint8_t>(i);
    }
  }
  std::uint8_t at = 0;
  for (unsigned group = 0; group < out.count; ++group) {
    for (std::uint8_t i = first[group]; i != kNone; i = next[i]) out.order[at++] = i;
    out.end[group] = at;
  }
}

}  // namespace penstock::gateway
