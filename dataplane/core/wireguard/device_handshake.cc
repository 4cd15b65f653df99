// Device: handshake messages and cookie replies, in and out.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kMaxCopies = 16;  // of one initiation

template <typename Message>
const Message& as(Bytes datagram) {
  return *reinterpret_cast<const Message*>(datagram.data());
}

template <typename Message>
MutableBytes bytes_of(Message& message) {
  return {reinterpret_cast<std::uint8_t*>(&message), sizeof message};
}

template <typename Message>
std::vector<std::uint8_t> copy_of(const Message& message) {
  const auto* first = reinterpret_cast<const std::uint8_t*>(&message);
  return {first, first + sizeof message};
}

Duration spacing(const PeerConfig& peer) {
  return peer.path_switch ? kPathInitiationSpacing : kRekeyTimeout;
}

}  // namespace

DropReason Device::handle_handshake(Bytes datagram, const Path& from, Now now) {
  impl_->last_now = now.monotonic;
  switch (classify(datagram)) {
    case MessageType::initiation: {
      const auto& message = as<InitiationMessage>(datagram);
      const DropReason refused = impl_->gate(datagram, message.sender.get(), from, now);
      return refused != DropReason::none ? refused : impl_->take_initiation(message, from, now);
    }
    case MessageType::response: {
      const auto& message = as<ResponseMessage>(datagram);
      const DropReason refused = impl_->gate(datagram, message.sender.get(), from, now);
      return refused != DropReason::none ? refused : impl_->take_response(message, from, now);
    }
    case MessageType::cookie:
      return impl_->take_cookie(as<CookieMessage>(datagram), from, now);
    case MessageType::data:
      return DropReason::wg_handshake_state;
    case MessageType::none:
      break;
  }
  return looks_like_wireguard(datagram) ? DropReason::wg_length : DropReason::tunnel_port_unknown;
}

// mac1 first, then whether this source must prove its address, then its own rate. Costs at most three short hashes.
DropReason Device::Impl::gate(Bytes message, std::uint32_t sender, const Path& from, Now now) {
  if (!giver.mac1_valid(message)) return DropReason::wg_mac1;
  const bool within_rate = unproved.allow(from.remote.address, now.monotonic);
  if (within_rate) load.count(now.monotonic);
  if (within_rate && !load_forced && !load.under_load(now.monotonic)) return DropReason::none;
  if (!giver.mac2_valid(message, from.remote, now.monotonic)) {
    const CookieMessage reply = giver.make_reply(message, sender, from.remote, now.monotonic);
    output.push_back({copy_of(reply), from, kNoPeer});
    return DropReason::wg_mac2_required;
  }
  return proved.allow(from.remote.address, now.monotonic) ? DropReason::none : DropReason::wg_rate_limited;
}

const Hash* Device::Impl::static_static(Peer& peer) const {
  Live& state = live(peer);
  if (!state.static_static) {
    Hash shared;
    if (!own.agree(peer.config.public_key, shared)) return nullptr;
    state.static_static = shared;
  }
  return &*state.static_static;
}

DropReason Device::Impl::take_initiation(const InitiationMessage& message, const Path& from, Now now) {
  NoiseState noise;
  PublicKey remote;
  if (!open_initiation(own, message, noise, remote)) return DropReason::wg_handshake_invalid;
  Peer* peer = find(remote);
  if (peer == nullptr) return DropReason::wg_unknown_peer;
  const Hash* shared = static_static(*peer);
  Timestamp timestamp;
  if (shared == nullptr || !open_timestamp(message, *shared, noise, timestamp)) return DropReason::wg_handshake_invalid;
  Live& state = live(*peer);
  if (timestamp == state.greatest_timestamp) return take_copy(*peer, from, now);
  if (timestamp < state.greatest_timestamp) return DropReason::wg_handshake_replay;
  if (state.initiation_received_at && now.monotonic - *state.initiation_received_at < kInitiationInterval)
    return DropReason::wg_rate_limited;

  const auto index = allocate_index(*peer);
  if (!index) return DropReason::wg_sessions_full;
  ResponseMessage response;
  TransportKeys transport;
  PrivateKey ephemeral;
  random.fill(ephemeral.bytes);
  const bool made =
      create_response(noise, message, remote, peer->config.preshared_key, ephemeral, *index, response, transport);
  wipe(ephemeral.bytes);
  wipe(noise.chain);
  if (!made) {
    indices.release(*index);
    return DropReason::wg_handshake_invalid;
  }

  state.greatest_timestamp = timestamp;
  state.initiation_received_at = now.monotonic;
  handshake_authenticated(*peer, from, now);
  install_as_responder(*peer, make_session(*peer, transport, *index, message.sender.get(), false, now.monotonic));
  state.response_mac1 = put_mac1(bytes_of(response), remote);
  if (peer->config.path_switch) state.response = response;
  state.answered_to = {from};
  put_mac2(bytes_of(response), state.cookies.find(from, now.monotonic));
  output.push_back({copy_of(response), from, peer->index});
  data.note_sent(0, peer->index, 0, 0, false, now.monotonic);
  update_timer(*peer, now.monotonic);
  return DropReason::none;
}

// The same initiation again. Over another path that is how a path_switch peer finds one that works both ways: were only
// the first copy answered, a path that carries nothing back could be the fastest in every try. So the same answer goes
// there as well, for a moment and to a bounded number of places; whoever replays it later gets nothing.
DropReason Device::Impl::take_copy(Peer& peer, const Path& from, Now now) {
  Live& state = live(peer);
  const bool fresh = state.initiation_received_at && now.monotonic - *state.initiation_received_at < kPathCopyTime;
  if (!fresh || !state.response || state.answered_to.size() >= kMaxCopies ||
      std::find(state.answered_to.begin(), state.answered_to.end(), from) != state.answered_to.end())
    return DropReason::wg_handshake_replay;
  state.answered_to.push_back(from);
  put_mac2(bytes_of(*state.response), state.cookies.find(from, now.monotonic));
  output.push_back({copy_of(*state.response), from, peer.index});
  return DropReason::none;
}

DropReason Device::Impl::take_response(const ResponseMessage& message, const Path& from, Now now) {
  Peer* peer = find(indices.owner(message.receiver.get()));
  if (peer == nullptr || !peer->live || !peer->live->pending || peer->live->pending_index != message.receiver.get())
    return DropReason::wg_handshake_state;
  TransportKeys transport;
  if (!open_response(own, *peer->live->pending, peer->config.preshared_key, message, transport))
    return DropReason::wg_handshake_invalid;
  const bool installed = install_as_initiator(*peer, transport, message.sender.get(), from, now);
  update_timer(*peer, now.monotonic);
  return installed ? DropReason::none : DropReason::wg_handshake_state;
}

DropReason Device::Impl::take_cookie(const CookieMessage& message, const Path& from, Now now) {
  const std::uint32_t index = message.receiver.get();
  Peer* peer = find(indices.owner(index));
  if (peer == nullptr || !peer->live) return DropReason::wg_cookie_invalid;
  Live& state = *peer->live;
  const bool to_initiation = state.pending && state.pending_index == index;
  const bool to_response = state.next != nullptr && state.next->local_index == index;
  if (!to_initiation && !to_response) return DropReason::wg_cookie_invalid;
  // A standard peer may answer from another address than the one it was asked at; what was asked is what counts.
  const bool only_path = to_initiation && state.sent_over.size() == 1;
  const Path& path = only_path ? state.sent_over.front() : from;
  const Mac& mac1 = to_initiation ? state.initiation_mac1 : state.response_mac1;
  return state.cookies.take(message, peer->config.public_key, mac1, path, now.monotonic)
             ? DropReason::none
             : DropReason::wg_cookie_invalid;
}

Timestamp Device::Impl::new_timestamp(WallTime wall) {
  last_timestamp = std::max(make_timestamp(wall), next_timestamp(last_timestamp));
  return last_timestamp;
}

std::vector<Path> Device::Impl::initiation_paths(const Peer& peer, unsigned tries, Instant now) const {
  const std::optional<Path> endpoint = data.endpoint(peer.index);
  if (endpoint && tries == 0 && session_live(peer, now)) return {*endpoint};  // a renewal: the primary only
  std::vector<Path> paths = peer.handshake_paths;
  if (paths.empty()) {
    if (endpoint) paths.push_back(*endpoint);
    for (const Endpoint& hint : peer.config.endpoints) {
      if (std::none_of(paths.begin(), paths.end(), [&](const Path& path) { return path.remote == hint; }))
        paths.push_back(Path{{}, hint, 0});
    }
  }
  if (paths.empty()) return paths;
  const auto first = static_cast<std::ptrdiff_t>(tries % paths.size());
  std::rotate(paths.begin(), paths.begin() + first, paths.end());
  const bool copies = peer.config.path_switch || !peer.handshake_paths.empty();
  paths.resize(std::min(paths.size(), copies ? kMaxCopies : 1));
  return paths;
}

void Device::Impl::begin_attempt(Peer& peer, Now now) {
  Live& state = live(peer);
  peer.wanted = true;
  if (state.attempting) return;
  state.start_at.reset();
  if (initiation_paths(peer, 0, now.monotonic).empty()) return;
  if (state.initiation_sent_at && now.monotonic - *state.initiation_sent_at < spacing(peer.config)) {
    state.start_at = *state.initiation_sent_at + spacing(peer.config);
    return;
  }
  state.attempting = true;
  state.attempt_started_at = now.monotonic;
  state.tries = 0;
  send_initiation(peer, now);
}

// One fresh initiation, as copies that differ only in mac2, and the time of the next.
void Device::Impl::send_initiation(Peer& peer, Now now) {
  Live& state = *peer.live;
  const std::vector<Path> paths = initiation_paths(peer, state.tries, now.monotonic);
  drop_pending(peer);
  state.initiation_sent_at = now.monotonic;
  ++state.tries;
  Duration interval = kRekeyTimeout;
  if (peer.config.path_switch && state.tries <= 5) interval = kPathRetryFirst * (1 << (state.tries - 1));
  interval = std::min<Duration>(interval, kRekeyTimeout);
  if (interval == kRekeyTimeout)
    interval += Duration(random.below(static_cast<std::uint32_t>(kRekeyTimeoutJitter.count())));
  state.retry_at = std::min(now.monotonic + interval, state.attempt_started_at + kRekeyAttemptTime);

  const Hash* shared = static_static(peer);
  const auto index = allocate_index(peer);
  if (shared == nullptr || !index) return;  // tries again like a lost one
  InitiationMessage message;
  PrivateKey ephemeral;
  random.fill(ephemeral.bytes);
  state.pending.emplace();
  const bool made = create_initiation(own, peer.config.public_key, *shared, ephemeral, new_timestamp(now.wall), *index,
                                      message, *state.pending);
  wipe(ephemeral.bytes);
  if (!made) {
    state.pending.reset();
    indices.release(*index);
    return;
  }
  state.pending_index = *index;
  state.initiation_mac1 = put_mac1(bytes_of(message), peer.config.public_key);
  for (const Path& path : paths) {
    put_mac2(bytes_of(message), state.cookies.find(path, now.monotonic));
    output.push_back({copy_of(message), path, peer.index});
  }
  state.sent_over = paths;
  data.note_sent(0, peer.index, 0, 0, false, now.monotonic);
}

// A path found while a handshake is under way is not kept waiting for the retry, only for the spacing.
void Device::Impl::hurry(Peer& peer) {
  if (!peer.config.path_switch || !peer.live || !peer.live->attempting || !peer.live->initiation_sent_at) return;
  Live& state = *peer.live;
  const bool news = std::any_of(peer.handshake_paths.begin(), peer.handshake_paths.end(), [&](const Path& path) {
    return std::find(state.sent_over.begin(), state.sent_over.end(), path) == state.sent_over.end();
  });
  if (!news) return;
  state.retry_at = std::min(state.retry_at, *state.initiation_sent_at + kPathInitiationSpacing);
  update_timer(peer, last_now);
}

void Device::Impl::end_attempt(Peer& peer) {
  Live& state = *peer.live;
  peer.wanted = false;
  state.attempting = false;
  state.retry_at = kNever;
  state.start_at.reset();
}

void Device::Impl::drop_pending(Peer& peer) {
  Live& state = *peer.live;
  if (!state.pending) return;
  wipe(state.pending->noise.chain);
  state.pending.reset();
  indices.release(state.pending_index);
}

void Device::Impl::fail_attempt(Peer& peer, Now now) {
  end_attempt(peer);
  drop_pending(peer);
  peer.live->staged.clear();
  peer.keepalive_base = now.monotonic;
  emit(EventType::handshake_failed, peer);
}

}  // namespace penstock::wireguard
