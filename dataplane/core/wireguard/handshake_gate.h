// What stands before every handshake: mac1, load, rate limits, cookies (whitepaper section 5.4.4, 5.4.7), in batches,
// so that a flood of forged messages costs a few hundred cycles each and none of it reaches a scalar multiplication.
//
// Order, cheapest first:
//   1. mac1: proves that the sender knows our public key. Wrong: dropped. While the load is known to be too high, a
//      stranger's message without a cookie can have nothing but a cookie, and is looked at only as long as there are
//      any.
//   2. A source that we know (KnownSources) and that keeps to its own rate passes, load or not. A source behind which
//      there are several peers (a NAT) has their rates together, up to a few without a cookie, up to many with one: all
//      tunnels of an office come back at once after a restart.
//   3. Without load, a source that keeps to its own rate passes. (Only these count towards the load, so that one noisy
//      source does not put everybody under load; each must then show a cookie by itself.)
//   4. A valid mac2 proves that the sender receives at its address. It passes, up to its own rate.
//   5. Everybody else gets a cookie, which is kept nowhere; replies of all are limited, so that we are no reflector and
//      have time for the rest.
//
// One thread per object. Several threads share the work by source address, so that each has all of a source's messages
// and cookies.
#pragma once

#include <algorithm>
#include <span>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/known_sources.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/rate_limit.h"

namespace penstock::wireguard {

struct GateLimits {
  std::uint32_t under_load_per_s = 1000;
  std::uint32_t per_source_per_s = 20;
  std::uint32_t per_source_burst = 5;
  std::uint32_t cookies_per_s = 20000;
  std::size_t limiter_sets = 1024;  // of 8 sources each; a power of two
};

// A message at the gate; the upper part is input.
struct GateMessage {
  Bytes bytes;  // an initiation or a response, by classify(); wg_length for anything else
  Endpoint source;
  // none: goes on.
  DropReason verdict = DropReason::none;
  bool answer = false;  // with `reply`; the verdict is wg_mac2_required then
  CookieMessage reply{};
};

class HandshakeGate {
 public:
  static constexpr std::size_t kBatch = 64;

  // `known`: whom to serve first; nullptr: nobody. Outlives the gate, as does `random`.
  HandshakeGate(const PublicKey& own, const GateLimits& limits, const KnownSources* known, Random& random);

  // At most kBatch.
  void judge(std::span<GateMessage> messages, Instant now);

  // Overrides the measured load, e.g. while the ring of messages is nearly full.
  void set_under_load(bool forced) { forced_ = forced; }
  // What has gone through without a cookie as known, and with one; cookies offered.
  struct Counts {
    std::uint64_t known = 0, proved = 0, cookies = 0;
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] bool under_load(Instant now) const { return forced_ || load_.under_load(now); }
  // The load is known to be too high: of strangers without a cookie no more are of use than get one.
  [[nodiscard]] bool overrun(Instant now) const { return load_.over(now); }

 private:
  void check_mac1(std::span<GateMessage* const> messages) const;
  [[nodiscard]] bool passes_without_cookie(const GateMessage& message, std::uint32_t peers, Instant now);
  [[nodiscard]] std::uint32_t peers_at(const IpAddress& source) const {
    return known_ == nullptr ? 0 : known_->peers_at(source);
  }
  void check_mac2(std::span<GateMessage*> messages, Instant now);
  void offer_cookie(GateMessage& message, Instant now);
  void offer_cookies(std::span<GateMessage* const> strangers, Instant now);

  CookieGiver giver_;
  const KnownSources* known_;
  SourceLimiter known_rate_;
  SourceLimiter unproved_;
  SourceLimiter proved_;
  LoadMeter load_;
  bool forced_ = false;
  std::uint32_t skipped_ = 0;
  ReplyLimiter cookies_;
  Counts counts_;
};

// In front of a gate that is overrun, on a thread that hands messages over to it: of strangers' messages without a
// cookie only as many go on as the gate may have cookies for. The rest would cost both threads what dropping at once
// does not. They go on some at a time, since the gate's thread must be woken for each lot. One thread per object.
class StrangerLimit {
 public:
  explicit StrangerLimit(std::uint32_t per_second)
      : lot_(std::max(per_second / static_cast<std::uint32_t>(std::chrono::seconds(1) / kEvery), 1U)) {}

  // `message`: of a source that is not known.
  [[nodiscard]] bool turns_away(Bytes message, Instant now) {
    const MessageType type = classify(message);
    return (type == MessageType::initiation || type == MessageType::response) && !has_mac2(message) && !take(now);
  }

 private:
  static constexpr Duration kEvery = std::chrono::milliseconds(4);

  bool take(Instant now) {
    if (now >= next_lot_) {
      next_lot_ = now + kEvery;
      left_ = lot_;
    }
    if (left_ == 0) return false;
    --left_;
    return true;
  }

  std::uint32_t lot_;
  std::uint32_t left_ = 0;
  Instant next_lot_ = Instant::min();
};

}  // namespace penstock::wireguard
