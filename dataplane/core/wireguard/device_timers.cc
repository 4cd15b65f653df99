// Device: when something is due for a peer, and doing it. Every branch either changes the state that made it due or
// moves its time, so that a deadline never fires twice for one cause.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"

namespace penstock::wireguard {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

Instant at(std::int64_t nanoseconds) {
  return Instant(Duration(nanoseconds));
}

}  // namespace

Instant Device::Impl::persistent_keepalive_at(const Peer& peer) const {
  if (peer.config.persistent_keepalive_s == 0) return kNever;
  if (peer.live && (peer.live->attempting || peer.live->start_at)) return kNever;  // that comes first
  const auto& slot = data.peers_[peer.index];
  Instant base = std::max({peer.keepalive_base, at(slot.sent.load(relaxed)), at(slot.received.load(relaxed))});
  return base + seconds(peer.config.persistent_keepalive_s);
}

Deadline Device::Impl::deadline_of(const Peer& peer, Instant now) const {
  Deadline next;
  const auto consider = [&next](Instant when, TimerReason why) {
    if (when < next.at) next = {when, why};
  };
  consider(persistent_keepalive_at(peer), TimerReason::persistent_keepalive);
  if (!peer.live) return next;
  const Live& state = *peer.live;
  if (state.attempting) {
    consider(state.retry_at, TimerReason::handshake_retry);
  } else {
    if (state.start_at) consider(*state.start_at, TimerReason::handshake_retry);
    if (state.pending || !state.earlier.empty())
      consider(*state.initiation_sent_at + kRejectAfterTime, TimerReason::session_expiry);
  }
  const auto expires = [&](const Session* session) {
    if (session != nullptr) consider(session->created_at + kRejectAfterTime, TimerReason::session_expiry);
  };
  for (const Session* session : {state.current, state.next, state.previous[0], state.previous[1]}) expires(session);
  for (const Session* session : state.waiting) expires(session);
  if (state.current != nullptr) {
    const auto& slot = data.peers_[peer.index];
    if (const auto since = slot.unanswered_received.load(relaxed))
      consider(at(since) + kKeepaliveTimeout, TimerReason::keepalive);
    const auto since = slot.unanswered_sent.load(relaxed);
    if (since != 0 && !state.attempting && !state.start_at)
      consider(at(since) + kNewHandshakeTime, TimerReason::new_handshake);
    // What workers report from now on is due KEEPALIVE-TIMEOUT later at the earliest.
    consider(now + kKeepaliveTimeout, TimerReason::activity_check);
  }
  return next;
}

void Device::Impl::update_timer(Peer& peer, Instant now) {
  const Deadline next = deadline_of(peer, now);
  peer.why = next.why;
  timers.set(peer.index, next.at);
}

void Device::Impl::run_timers(Peer& peer, Now now) {
  const Instant time = now.monotonic;
  auto& slot = data.peers_[peer.index];
  expire_sessions(peer, time);
  if (peer.live) {
    Live& state = *peer.live;
    if (state.attempting && time >= state.retry_at) {
      if (time - state.attempt_started_at >= kRekeyAttemptTime) {
        fail_attempt(peer, now);
      } else {
        send_initiation(peer, now);
      }
    }
    if (state.start_at && time >= *state.start_at) begin_attempt(peer, now);
    const bool unanswered = !state.attempting && (state.pending || !state.earlier.empty());
    if (unanswered && time - *state.initiation_sent_at >= kRejectAfterTime) drop_pending(peer);
    if (state.current != nullptr) {
      const auto received = slot.unanswered_received.load(relaxed);
      if (received != 0 && time >= at(received) + kKeepaliveTimeout) {
        slot.unanswered_received.store(0, relaxed);
        send_keepalive(peer, std::nullopt, now);
      }
      const auto sent = slot.unanswered_sent.load(relaxed);
      if (sent != 0 && !state.attempting && !state.start_at && time >= at(sent) + kNewHandshakeTime) {
        slot.unanswered_sent.store(0, relaxed);
        begin_attempt(peer, now);
      }
    }
  }
  if (time >= persistent_keepalive_at(peer)) {
    peer.keepalive_base = time;
    if (!send_keepalive(peer, std::nullopt, now)) begin_attempt(peer, now);
  }
  update_timer(peer, time);
}

Deadline Device::poll_timeout() const {
  if (impl_->timers.empty()) return {};
  return {impl_->timers.next_at(), impl_->peers[impl_->timers.next_peer()]->why};
}

void Device::handle_timeout(Now now) {
  impl_->last_now = now.monotonic;
  while (!impl_->timers.empty() && impl_->timers.next_at() <= now.monotonic)
    impl_->run_timers(*impl_->peers[impl_->timers.next_peer()], now);
}

}  // namespace penstock::wireguard
