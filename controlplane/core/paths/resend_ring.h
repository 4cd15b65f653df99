// Recently sent datagrams of one gateway, and how much duplication a failing path may cost (paths.md "Failure").
//
// ResendRing keeps copies of what was sent since the last proof that the primary works; a packet answered for by a
// later proof is dropped from it. While the primary is suspect the copies go out once more over another path, oldest
// first; the receiver's replay window discards what had arrived. Where the gateway reports what it has received, only
// what it misses is sent again, and again if a copy is lost as well. Bounded by packets and bytes: above that rate the
// oldest are lost to the ring ("zero lost" is promised only below it).
//
// DuplicationBudget bounds copies and resent packets alike: 2000 packets/s and 2 Mbit/s with a second's worth at once,
// so that a failing path cannot melt a relay.
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/wireguard/reception_report.h"

namespace penstock::paths {

class ResendRing {
 public:
  static constexpr std::size_t kMaxPackets = 4096;
  static constexpr std::size_t kMaxBytes = 256 * 1024;
  static constexpr std::uint8_t kMaxRepeats = 8;  // what is too long for the way never arrives

  struct Packet {
    std::vector<std::uint8_t> bytes;
    std::uint16_t sent_over = 0;  // numbers of paths; 0: none
    Instant sent{};
    std::uint16_t copied_over = 0;
    Instant copied{};
    bool waiting = false;  // to be sent again
    bool arrived = false;  // the gateway says so
    std::uint8_t repeats = 0;  // because the gateway missed it

    // When it was sent last, over whichever path.
    [[nodiscard]] Instant last() const { return copied_over != 0 ? std::max(sent, copied) : sent; }
  };

  Packet& push(Bytes datagram, std::uint16_t over, Instant now);
  // Everything sent and copied before `proven` has arrived (or was lost for other reasons than the path).
  void confirm(Instant proven);
  // Too old to be of use to anybody.
  void drop_sent_before(Instant then);
  // Nothing waits any more.
  void give_up();
  // A probe sent at `since` over `path` arrived: what went over it from then on needs no copy, all else does.
  void doubt(std::uint16_t path, Instant since);
  // What went over `path` since then did not count as sent, and waits if `again`. True when something waits now.
  bool doubt_sent(std::uint16_t path, Instant since, bool again);
  // What the gateway says it has is in no doubt any more.
  void learn(const wireguard::ReceptionReport& report);
  // What it misses although it was sent before `proven`, on its way long enough, waits; what was said to have arrived
  // and what cannot be told by the report and is older is dropped. True when something waits now.
  bool doubt_missing(const wireguard::ReceptionReport& report, Instant proven);
  void clear();

  [[nodiscard]] std::deque<Packet>& packets() { return packets_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void pop_front();

  std::deque<Packet> packets_;
  std::size_t bytes_ = 0;
  std::vector<std::uint8_t> spare_;  // memory of the packet dropped last: a full ring allocates nothing
};

class DuplicationBudget {
 public:
  static constexpr double kPacketsPerSecond = 2000;
  static constexpr double kBytesPerSecond = 250'000;
  static constexpr double kBurstSeconds = 1;

  // False: not now.
  bool take(std::size_t bytes, Instant now);
  // When one packet of `bytes` could go, at the earliest.
  [[nodiscard]] Instant next(std::size_t bytes, Instant now) const;

 private:
  double packets_ = kPacketsPerSecond * kBurstSeconds;
  double bytes_ = kBytesPerSecond * kBurstSeconds;
  Instant filled_{};
};

}  // namespace penstock::paths
