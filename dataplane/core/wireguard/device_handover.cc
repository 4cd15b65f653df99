// Device: sessions out of the process that ends and into the one that follows.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"
#include "dataplane/core/wireguard/handover.h"

namespace penstock::wireguard {
namespace {

Session** place_of(std::array<Session*, 2>& previous, Session*& current, Session*& next, SessionRole role) {
  switch (role) {
    case SessionRole::current:
      return &current;
    case SessionRole::next:
      return &next;
    case SessionRole::previous_0:
      return &previous[0];
    case SessionRole::previous_1:
      return &previous[1];
  }
  return nullptr;
}

}  // namespace

std::optional<PeerHandover> Device::export_peer(PeerIndex index) const {
  const Impl::Peer* peer = impl_->find(index);
  if (peer == nullptr) return std::nullopt;
  PeerHandover out;
  out.public_key = peer->config.public_key;
  out.endpoint = impl_->data.endpoint(index);
  if (!peer->live) return out;
  Impl::Live& live = *peer->live;
  out.greatest_timestamp = live.greatest_timestamp;
  out.handshake_at = live.handshake_at;
  for (std::uint8_t i = 0; i < kSessionRoles; ++i) {
    const auto role = static_cast<SessionRole>(i);
    const Session* session = *place_of(live.previous, live.current, live.next, role);
    if (session == nullptr) continue;
    SessionHandover& to = out.sessions.emplace_back();
    to.role = role;
    to.initiator = session->initiator;
    to.confirmed = session->confirmed.load(std::memory_order_relaxed);
    to.send_key = session->send_key;
    to.receive_key = session->receive_key;
    to.local_index = session->local_index;
    to.remote_index = session->remote_index;
    to.created_at = session->created_at;
    to.send_counter = session->send_counter.load(std::memory_order_relaxed);
    to.window = session->window.snapshot();
  }
  return out;
}

std::size_t Device::import_peer(PeerIndex index, const PeerHandover& from, Now now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr || peer->config.public_key != from.public_key) return 0;
  Impl::Live& live = d.live(*peer);
  live.greatest_timestamp = std::max(live.greatest_timestamp, from.greatest_timestamp);
  std::size_t taken = 0;
  for (const SessionHandover& session : from.sessions) {
    Session** place = place_of(live.previous, live.current, live.next, session.role);
    // One that the future has made, or that is too old, is no session of ours.
    if (place == nullptr || *place != nullptr || session.created_at > now.monotonic ||
        now.monotonic - session.created_at >= kRejectAfterTime || session.send_counter >= kRejectAfterMessages)
      continue;
    if (!d.indices.take(session.local_index, index)) continue;
    auto* made = new Session;
    made->send_key = session.send_key;
    made->receive_key = session.receive_key;
    made->local_index = session.local_index;
    made->remote_index = session.remote_index;
    made->peer = index;
    made->begin(session.initiator, session.created_at);
    made->confirmed.store(session.confirmed, std::memory_order_relaxed);
    made->send_counter.store(session.send_counter + kCounterMargin, std::memory_order_relaxed);
    made->window.restore(session.window);
    *place = made;
    d.data.publish_session(made);
    ++taken;
  }
  if (from.endpoint) {
    d.forget_sources(*peer);
    d.data.set_endpoint(index, from.endpoint, peer->follows_source());
    d.know_sources(*peer);
  }
  if (live.current != nullptr) {
    // A peer with a persistent keepalive was asked for a session as soon as it was known; it has one.
    d.end_attempt(*peer);
    d.drop_pending(*peer);
    std::erase_if(d.output, [index](const OutputDatagram& datagram) { return datagram.peer == index; });
    live.handshake_at = from.handshake_at;
    d.data.set_sending(index, live.current);
  }
  d.update_timer(*peer, now.monotonic);
  return taken;
}

void Device::import_timestamp(const Timestamp& newest) {
  impl_->last_timestamp = std::max(impl_->last_timestamp, newest);
}

}  // namespace penstock::wireguard
