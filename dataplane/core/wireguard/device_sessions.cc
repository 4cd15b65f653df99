// Device: which session is used for what, and when one ends.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"

namespace penstock::wireguard {

Session* Device::Impl::make_session(const Peer& peer, TransportKeys& keys_of, std::uint32_t local, std::uint32_t remote,
                                    bool initiator, Instant now) {
  auto* session = new Session;
  session->send_key = keys_of.send;
  session->receive_key = keys_of.receive;
  session->local_index = local;
  session->remote_index = remote;
  session->peer = peer.index;
  session->begin(initiator, now);
  session->confirmed.store(initiator, std::memory_order_relaxed);
  wipe(keys_of.send);
  wipe(keys_of.receive);
  data.publish_session(session);
  return session;
}

void Device::Impl::retire(Session* session) {
  if (session == nullptr) return;
  data.withdraw_session(*session);
  indices.release(session->local_index);
  if (config.retire) {
    config.retire(session);
  } else {
    destroy_session(session);
  }
}

void Device::Impl::push_previous(Live& live_peer, Session* session) {
  if (session == nullptr) return;
  retire(live_peer.previous[1]);
  live_peer.previous[1] = live_peer.previous[0];
  live_peer.previous[0] = session;
}

bool Device::Impl::session_live(const Peer& peer, Instant now) {
  return peer.live && peer.live->current != nullptr && !peer.live->current->expired(now);
}

// Endpoint and activity, after any handshake message of the peer has proved authentic. Before sessions change.
void Device::Impl::handshake_authenticated(Peer& peer, const Path& from, Now now) {
  if (peer.follows_source() || !session_live(peer, now.monotonic)) move_endpoint(peer, from);
  data.note_received(0, peer.index, 0, 0, false, now.monotonic);
}

// What was answered before may be what the initiator goes on with: see set_pending_aside().
void Device::Impl::install_as_responder(Peer& peer, Session* session, Instant now) {
  Live& state = live(peer);
  Session* before = std::exchange(state.next, session);
  if (before != nullptr && peer.config.path_switch) {
    retire(state.waiting.back());
    std::move_backward(state.waiting.begin(), state.waiting.end() - 1, state.waiting.end());
    state.waiting.front() = before;
  } else {
    retire(before);
  }
  for (Session*& held : state.waiting)
    if (held != nullptr && now - held->created_at >= kEarlierTryTime) retire(std::exchange(held, nullptr));
}

void Device::Impl::drop_waiting(Live& state) {
  for (Session*& held : state.waiting) retire(std::exchange(held, nullptr));
}

bool Device::Impl::awaits_first_message(const Live& live, const Session& session) {
  return live.next == &session || std::find(live.waiting.begin(), live.waiting.end(), &session) != live.waiting.end();
}

// The initiation that counts, when both ends sent one, is that of the larger public key (see device.h). False: ours
// does not, and the session of the peer's is already in use.
bool Device::Impl::install_as_initiator(Peer& peer, const Try& answered, TransportKeys& keys_of,
                                        std::uint32_t remote_index, const Path& from, Now now) {
  Live& state = *peer.live;
  const Instant sent_at = answered.sent_at;
  const std::uint32_t local_index = answered.index;
  const bool ours_counts = own.public_key() > peer.config.public_key;
  const auto crossed = [&](const Session* other) {  // the peer's handshake took place while ours was under way
    return other != nullptr && !other->initiator && other->created_at >= sent_at;
  };
  if (crossed(state.current) && !ours_counts) {
    drop_pending(peer);
    return false;
  }
  handshake_authenticated(peer, from, now);
  expire_sessions(peer, now.monotonic);
  const bool renewed = state.current != nullptr;

  drop_pending(peer, local_index);
  Session* session = make_session(peer, keys_of, local_index, remote_index, true, now.monotonic);
  push_previous(state, std::exchange(state.current, nullptr));
  // Theirs, if it counts, stays ready to be confirmed; otherwise it can still receive.
  if (!crossed(state.next) || ours_counts) push_previous(state, std::exchange(state.next, nullptr));
  for (Session*& held : state.waiting)
    if (!crossed(held)) retire(std::exchange(held, nullptr));
  state.current = session;
  const std::size_t staged = state.staged.size();
  session_usable(peer, renewed, now);
  if (staged == 0) send_keepalive(peer, std::nullopt, now);  // the responder may not send before it hears us
  return true;
}

void Device::Impl::confirm(Peer& peer, Session& session, Now now) {
  Live& state = *peer.live;
  expire_sessions(peer, now.monotonic);
  if (!awaits_first_message(state, session)) return;
  session.confirmed.store(true, std::memory_order_relaxed);
  // A newer one than this stays: a peer that was started again has not spoken yet.
  if (state.next == &session) state.next = nullptr;
  std::replace(state.waiting.begin(), state.waiting.end(), &session, static_cast<Session*>(nullptr));
  drop_waiting(state);
  const Session* ours = state.current;
  if (ours != nullptr && ours->initiator && ours->created_at >= session.created_at &&
      own.public_key() > peer.config.public_key)
    return push_previous(state, &session);  // both ends began, and ours counts
  const bool renewed = state.current != nullptr;
  push_previous(state, std::exchange(state.current, &session));
  session_usable(peer, renewed, now);
}

void Device::Impl::session_usable(Peer& peer, bool renewed, Now now) {
  Live& state = *peer.live;
  data.set_sending(peer.index, state.current);
  state.handshake_at = now.wall;
  end_attempt(peer);
  emit(renewed ? EventType::session_renewed : EventType::session_up, peer, data.endpoint(peer.index).value_or(Path{}));
  flush_staged(peer, now);
}

void Device::Impl::expire_sessions(Peer& peer, Instant now) {
  if (!peer.live) return;
  Live& state = *peer.live;
  const auto expire = [&](Session*& held) {
    if (held != nullptr && held->expired(now)) retire(std::exchange(held, nullptr));
  };
  expire(state.next);
  for (Session*& held : state.waiting) expire(held);
  for (Session*& held : state.previous) expire(held);
  if (state.current != nullptr && state.current->expired(now)) {
    data.set_sending(peer.index, nullptr);
    retire(std::exchange(state.current, nullptr));
    emit(EventType::session_down, peer);
  }
}

void Device::Impl::drop_all_sessions(Peer& peer) {
  if (!peer.live) return;
  Live& state = *peer.live;
  end_attempt(peer);
  drop_pending(peer);
  state.staged.clear();
  data.set_sending(peer.index, nullptr);
  drop_waiting(state);
  for (Session** held : {&state.current, &state.next, &state.previous[0], &state.previous[1]})
    retire(std::exchange(*held, nullptr));
}

}  // namespace penstock::wireguard
