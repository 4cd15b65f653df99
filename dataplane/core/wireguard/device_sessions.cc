// Device: which session is used for what, and when one ends.
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

void Device::Impl::install_as_responder(Peer& peer, Session* session) {
  retire(std::exchange(live(peer).next, session));
}

// The initiation that counts, when both ends sent one, is that of the larger public key (see device.h). False: ours
// does not, and the session of the peer's is already in use.
bool Device::Impl::install_as_initiator(Peer& peer, TransportKeys& keys_of, std::uint32_t remote_index,
                                        const Path& from, Now now) {
  Live& state = *peer.live;
  const bool ours_counts = own.public_key() > peer.config.public_key;
  const auto crossed = [&](const Session* other) {  // the peer's handshake took place while ours was under way
    return other != nullptr && !other->initiator && other->created_at >= *state.initiation_sent_at;
  };
  if (crossed(state.current) && !ours_counts) {
    drop_pending(peer);
    return false;
  }
  handshake_authenticated(peer, from, now);
  expire_sessions(peer, now.monotonic);
  const bool renewed = state.current != nullptr;

  const std::uint32_t local_index = state.pending_index;
  state.pending.reset();  // its index becomes the session's
  Session* session = make_session(peer, keys_of, local_index, remote_index, true, now.monotonic);
  push_previous(state, std::exchange(state.current, nullptr));
  // Theirs, if it counts, stays ready to be confirmed; otherwise it can still receive.
  if (!crossed(state.next) || ours_counts) push_previous(state, std::exchange(state.next, nullptr));
  state.current = session;
  const std::size_t staged = state.staged.size();
  session_usable(peer, renewed, now);
  if (staged == 0) send_keepalive(peer, std::nullopt, now);  // the responder may not send before it hears us
  return true;
}

void Device::Impl::confirm(Peer& peer, Now now) {
  Live& state = *peer.live;
  expire_sessions(peer, now.monotonic);
  if (state.next == nullptr) return;
  const bool renewed = state.current != nullptr;
  state.next->confirmed.store(true, std::memory_order_relaxed);
  push_previous(state, std::exchange(state.current, nullptr));
  state.current = std::exchange(state.next, nullptr);
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
  for (Session** held : {&state.next, &state.previous[0], &state.previous[1]})
    if (*held != nullptr && (*held)->expired(now)) retire(std::exchange(*held, nullptr));
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
  for (Session** held : {&state.current, &state.next, &state.previous[0], &state.previous[1]})
    retire(std::exchange(*held, nullptr));
}

}  // namespace penstock::wireguard
