#include "controlplane/core/client_agent/access.h"

#include <algorithm>
#include <utility>

namespace penstock::client {
namespace {

constexpr std::uint32_t kJitterMs = 250;

// From `from` to `to` on the wall clock; zero when `to` has passed.
Duration until(WallTime from, WallTime to) {
  if (to <= from) return Duration{0};
  // A century is as good as never and does not overflow.
  const std::uint64_t seconds = std::min<std::uint64_t>(to.seconds - from.seconds, 3'000'000'000);
  return std::chrono::seconds{seconds} + std::chrono::nanoseconds{static_cast<std::int64_t>(to.nanoseconds) -
                                                                  static_cast<std::int64_t>(from.nanoseconds)};
}

}  // namespace

bool Access::expired(WallTime wall) const {
  return expires_ != WallTime{} && wall >= expires_;
}

Instant Access::spaced(Instant now) {
  if (asked_at_ == Instant::min()) return now;
  const Instant earliest = asked_at_ + kSpacing;
  if (now >= earliest + std::chrono::milliseconds{kJitterMs}) return now;
  return std::max(now, earliest) + std::chrono::milliseconds{random_->below(kJitterMs + 1)};
}

void Access::wish_at(Instant at) {
  if (wish_) return;
  wish_ = true;
  try_at_ = at;
}

void Access::want(Now now) {
  if (usable(now.wall) || refusal_stands(now.monotonic)) return;
  renewal_ = false;
  wish_at(spaced(now.monotonic));
}

void Access::unwant() {
  if (!asked_ && !renewal_) wish_ = false;
}

bool Access::take_request(Now now, bool portal_up, const std::string& request_id) {
  if (asked_ && portal_up && repeat_) {
    repeat_ = false;
    return true;
  }
  if (!wish_ || asked_ || !portal_up || now.monotonic < try_at_) return false;
  asked_ = true;
  repeat_ = doubted_ = doubts_ = false;
  asked_at_ = now.monotonic;
  request_id_ = request_id;
  return true;
}

void Access::granted(std::string gateway, WallTime expires, Now now) {
  granted_ = true;
  gateway_ = std::move(gateway);
  expires_ = expires;
  // A grant shorter than a minute and a half is renewed in its last third.
  renew_before_ = std::min<Duration>(kRenewBefore, until(now.wall, expires) / 3);
  wish_ = asked_ = renewal_ = refused_ = false;
  backoff_.reset();
}

bool Access::refused(const std::string& request_id, Refusal reason, Now now) {
  if (!asked_ || request_id != request_id_) return false;
  asked_ = false;
  const Duration wait = backoff_.next(*random_);
  if (reason == Refusal::rate_limited) {
    try_at_ = std::max(now.monotonic + wait, spaced(now.monotonic));
    return true;
  }
  wish_ = false;
  refused_ = true;
  refusal_ = reason;
  refused_until_ = now.monotonic + std::max<Duration>(wait, kSpacing);
  if (reason == Refusal::forbidden || reason == Refusal::not_found || reason == Refusal::version_mismatch) revoked();
  return true;
}

void Access::revoked() {
  granted_ = false;
  gateway_.clear();
  if (renewal_) wish_ = asked_ = renewal_ = false;
}

void Access::unreachable(Now now, bool insist) {
  if (refusal_stands(now.monotonic)) return;
  renewal_ = renewal_ || (insist && granted_);
  wish_at(spaced(now.monotonic) + std::chrono::milliseconds{random_->below(kJitterMs + 1)});
}

void Access::newly_unreachable(Now now, bool insist) {
  if (refusal_stands(now.monotonic)) return;
  renewal_ = renewal_ || (insist && granted_);
  wish_ = true;
  asked_ = false;
  try_at_ = now.monotonic + std::chrono::milliseconds{random_->below(kJitterMs + 1)};
}

void Access::forget_refusal() {
  if (refused_) backoff_.reset();
  refused_ = false;
}

void Access::portal_lost(Now now) {
  if (!asked_) return;
  asked_ = false;
  try_at_ = spaced(now.monotonic);
}

Instant Access::renew_at(Now now) const {
  if (!granted_ || wish_ || expires_ == WallTime{} || expired(now.wall)) return kNever;
  if (refusal_stands(now.monotonic)) return refused_until_;
  const Instant at = now.monotonic + until(now.wall, expires_) - renew_before_;
  return used_at_ != Instant::min() && used_at_ + kInUse >= std::max(at, now.monotonic) ? at : kNever;
}

Instant Access::next_deadline(Now now, bool portal_up) const {
  Instant at = renew_at(now);
  if (asked_) at = std::min(at, asked_at_ + (doubted_ ? kAnswerTimeout : kDoubtAfter));
  if (wish_ && !asked_ && portal_up) at = std::min(at, try_at_);
  return at;
}

void Access::handle_timeout(Now now) {
  if (asked_ && !doubted_ && now.monotonic >= asked_at_ + kDoubtAfter) doubted_ = doubts_ = true;
  if (asked_ && now.monotonic >= asked_at_ + kAnswerTimeout) {
    asked_ = false;
    try_at_ = now.monotonic + backoff_.next(*random_);
  }
  if (refused_ && now.monotonic >= refused_until_) refused_ = false;
  if (const Instant at = renew_at(now); at <= now.monotonic) {
    renewal_ = true;
    wish_at(spaced(now.monotonic));
  }
}

}  // namespace penstock::client
