// When a STUN request over UDP is sent again and when it has failed: RFC 8489 §6.2.1 (Rc = 7, Rm = 16).
//
// Sent at 0, 1, 3, 7, 15, 31, 63 RTO; failed Rm RTO after the last. A process that was stopped or busy must not take
// its own silence for the server's: forgive() starts the count again (trap paths-10).
#pragma once

#include <algorithm>

#include "controlplane/core/paths/types.h"

namespace penstock::paths {

class Retransmission {
 public:
  static constexpr int kRequests = 7;                                           // Rc
  static constexpr int kLastWaitFactor = 16;                                    // Rm
  static constexpr Duration kStreamTimeout = std::chrono::milliseconds{39500};  // Ti, over TCP and TLS

  Retransmission() = default;
  // The first copy is sent by the caller right now.
  Retransmission(Instant now, Duration rto, bool stream = false)
      : first_rto_(rto), interval_(rto), started_(now), due_(now + (stream ? kStreamTimeout : rto)), stream_(stream) {}

  [[nodiscard]] Instant due() const { return due_; }
  [[nodiscard]] Instant started() const { return started_; }
  // Karn: only a request sent once tells a round-trip time.
  [[nodiscard]] bool sent_once() const { return sent_ == 1 && !repeated_; }

  enum class Step : std::uint8_t { wait, send, failed };
  Step advance(Instant now) {
    if (now < due_) return Step::wait;
    if (stream_ || sent_ >= kRequests) return Step::failed;
    ++sent_;
    interval_ *= 2;
    due_ = now + (sent_ == kRequests ? first_rto_ * kLastWaitFactor : interval_);
    return Step::send;
  }
  // Once more at `at`, unless it is due sooner, with all tries but the first before it: what became of the copies so far is
  // not known.
  void again(Instant at) {
    if (stream_) return;
    repeated_ = true;
    sent_ = 1;
    interval_ = first_rto_;
    due_ = std::min(due_, at);
  }
  // Send again at once, with all tries before it.
  void forgive(Instant now) {
    if (stream_) return;  // the connection repeats what is lost
    repeated_ = true;
    sent_ = 1;
    interval_ = first_rto_;
    started_ = due_ = now;
  }

 private:
  Duration first_rto_{};
  Duration interval_{};
  Instant started_{};
  Instant due_ = kNever;
  int sent_ = 1;
  bool stream_ = false;
  bool repeated_ = false;
};

}  // namespace penstock::paths
