// The authorisation of one Resource as the client sees it: when to ask the portal, and what its answer means.
//
// Two things are kept apart: the *grant* (stands until it expires, is revoked or refused) and the *wish* for a new
// answer (a packet waits, the grant is about to expire while in use, the gateway cannot be reached). A wish becomes one
// request; so a renewal neither stops packets of live flows nor touches a queue.
//
// Rules (protocol.md, "Signaling"): one request under way per Resource; requests at least 2 s apart; backoff while
// refused or unanswered; jitter on everything but the first. While the portal is away a wish is kept, once. Expiry is
// always judged from the latest grant, so an old one's timer evicts nothing. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "controlplane/core/backoff.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::client {

enum class Refusal : std::uint8_t { not_found, offline, version_mismatch, forbidden, rate_limited };

class Access {
 public:
  static constexpr Duration kSpacing = std::chrono::seconds{2};
  static constexpr Duration kAnswerTimeout = std::chrono::seconds{5};
  // The stream of a request that is not answered for so long may be broken without anybody knowing.
  static constexpr Duration kDoubtAfter = std::chrono::milliseconds{600};
  static constexpr Duration kRenewBefore = std::chrono::seconds{30};
  static constexpr Duration kInUse = std::chrono::minutes{2};
  static constexpr Duration kLongestBackoff = std::chrono::seconds{60};

  explicit Access(Random& random) : random_(&random) {}

  // Something waits for the Resource. No effect while a grant can be used or a refusal stands.
  void want(Now now);
  // Nothing waits any more: a wish that was not sent is dropped (a renewal's is kept).
  void unwant();
  // A packet goes out under the grant: renewal is worth its while.
  void used(Instant now) { used_at_ = now; }

  // True when a request is to be sent now, under this id or, a repetition, under request_id(). The caller sends it.
  [[nodiscard]] bool take_request(Now now, bool portal_up, const std::string& request_id);

  // `expires` {0,0}: never. Whichever request it answers: grants are idempotent and the latest wins.
  void granted(std::string gateway, WallTime expires, Now now);
  // False when it answers no request that is under way. A forbidden or unknown Resource loses its grant too.
  bool refused(const std::string& request_id, Refusal reason, Now now);
  void revoked();
  // The granted gateway does not answer: ask anew, spaced; the grant stands meanwhile. `insist`: also when nothing
  // waits, because what is in use will (unwant() does not drop it).
  void unreachable(Now now, bool insist = false);
  // The same when the request names a gateway that the last one did not: it is not spaced, and takes the place of one
  // under way, which may wait for just that gateway.
  void newly_unreachable(Now now, bool insist = false);
  // The Resource's rules changed or the portal sent a fresh snapshot: an earlier refusal no longer counts.
  void forget_refusal();
  // What was under way on the stream is lost with it; the wish stays.
  void portal_lost(Now now);
  // Another stream has taken the place of the one that the request went over: it is repeated there under the same id,
  // which the portal takes for what it is (take_request gives it out again).
  void portal_renewed() { repeat_ = asked_; }
  // Once per request, by handle_timeout(): nobody has answered for a while.
  [[nodiscard]] bool take_doubt() { return std::exchange(doubts_, false); }

  [[nodiscard]] bool usable(WallTime wall) const { return granted_ && !expired(wall); }
  [[nodiscard]] bool waiting() const { return wish_; }
  [[nodiscard]] bool asked() const { return asked_; }  // a request is under way
  [[nodiscard]] bool refusal_stands(Instant now) const { return refused_ && now < refused_until_; }
  [[nodiscard]] Refusal refusal() const { return refusal_; }
  // Of the latest grant, also when it has expired; empty when there was none or it was taken away.
  [[nodiscard]] const std::string& gateway() const { return gateway_; }
  [[nodiscard]] WallTime expires() const { return expires_; }
  [[nodiscard]] const std::string& request_id() const { return request_id_; }  // of the latest request

  // When to call handle_timeout and take_request again; kNever: not by itself.
  [[nodiscard]] Instant next_deadline(Now now, bool portal_up) const;
  void handle_timeout(Now now);

 private:
  [[nodiscard]] bool expired(WallTime wall) const;
  [[nodiscard]] Instant renew_at(Now now) const;
  void wish_at(Instant at);
  [[nodiscard]] Instant spaced(Instant now);

  Random* random_;

  bool granted_ = false;
  std::string gateway_;
  WallTime expires_{};
  Duration renew_before_ = kRenewBefore;
  Instant used_at_ = Instant::min();

  bool wish_ = false;
  bool renewal_ = false;  // the wish is to prolong a grant
  Instant try_at_ = kNever;

  bool asked_ = false;  // a request is under way
  bool repeat_ = false;  // ... and must be sent again
  bool doubted_ = false;  // ... and nobody answers
  bool doubts_ = false;   // which has not been told yet
  std::string request_id_;
  Instant asked_at_ = Instant::min();  // of the latest request

  bool refused_ = false;
  Refusal refusal_ = Refusal::not_found;
  Instant refused_until_{};

  Backoff backoff_{kSpacing, kLongestBackoff};
};

}  // namespace penstock::client
