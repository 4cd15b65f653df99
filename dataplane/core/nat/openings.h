// Flows whose first SYN has not been answered yet, while their name has other addresses to try: the SYN as its sender
// sent it, the addresses tried so far, and when the next one is due. All wait equally long, so a list in order of
// arrival is in order of time.
//
// Bounded; a flow for which there is no room has the one address it began with. The queue owns the packets it is given
// until close() gives them back. One thread, no allocation after construction.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

inline constexpr Duration kAnswerTime = std::chrono::seconds{1};  // of an address, before the next is tried
inline constexpr std::uint8_t kLastAddressTurns = 3;              // the last one gets this many answer times

struct Opening {
  static constexpr std::size_t kMaxTried = 8;

  Packet* syn = nullptr;
  flow::Slot slot = flow::kNoSlot;
  Instant due{};
  std::array<IpAddress, kMaxTried> tried{};
  std::uint8_t tried_count = 0;
  std::uint8_t turns = 0;  // of the last address
  bool refused = false;    // one of those tried has said no
  std::uint16_t previous = 0xffff;
  std::uint16_t next = 0xffff;

  [[nodiscard]] bool has_tried(const IpAddress& address) const {
    for (std::size_t i = 0; i < tried_count; ++i)
      if (tried[i] == address) return true;
    return false;
  }
};

class Openings {
 public:
  using Index = std::uint16_t;
  static constexpr Index kNone = 0xffff;

  explicit Openings(std::uint16_t capacity);

  // kNone: no room; the packet stays the caller's.
  Index open(flow::Slot slot, Packet* syn, Instant now);
  [[nodiscard]] Opening& operator[](Index index) { return entries_[index]; }
  // Another answer time from now on.
  void wait_again(Index index, Instant now);
  // Ends it; the SYN is the caller's.
  Packet* close(Index index);
  // The first that is due; kNone when none is.
  [[nodiscard]] Index due(Instant now) const {
    return first_ != kNone && entries_[first_].due <= now ? first_ : kNone;
  }
  [[nodiscard]] Index first() const { return first_; }
  [[nodiscard]] Instant poll_timeout() const { return first_ == kNone ? kNever : entries_[first_].due; }

 private:
  void link(Index index, Instant due);
  void unlink(Index index);

  std::vector<Opening> entries_;
  Index free_ = kNone;  // by `next`
  Index first_ = kNone;
  Index last_ = kNone;
};

}  // namespace penstock::nat
