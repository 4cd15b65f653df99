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
  const MessageType type = classify(datagram);
  if (type == MessageType::initiation || type == MessageType::response) {
    const DropReason refused = impl_->pass_gate(datagram, from, now);
    if (refused != DropReason::none) return refused;
  }
  return impl_->take(datagram, from, now);
}

DropReason Device::handle_admitted(Bytes datagram, const Path& from, Now now) {
  impl_->last_now = now.monotonic;
  return impl_->take(datagram, from, now);
}

DropReason Device::claim(InitiationWork& work, Now now) {
  impl_->last_now = now.monotonic;
  return impl_->claim(work, now);
}

DropReason Device::finish(InitiationWork& work, Now now) {
  impl_->last_now = now.monotonic;
  const DropReason reason = impl_->finish(work, now);
  work.forget();
  return reason;
}

DropReason Device::Impl::take(Bytes datagram, const Path& from, Now now) {
  switch (classify(datagram)) {
    case MessageType::initiation:
      return take_initiation(as<InitiationMessage>(datagram), from, now);
    case MessageType::response:
      return take_response(as<ResponseMessage>(datagram), from, now);
    case MessageType::cookie:
      return take_cookie(as<CookieMessage>(datagram), from, now);
    case MessageType::data:
      return DropReason::wg_handshake_state;
    case MessageType::none:
      break;
  }
  return looks_like_wireguard(datagram) ? DropReason::wg_length : DropReason::tunnel_port_unknown;
}

HandshakeGate& Device::Impl::gate() {
  if (!own_gate) {
    own_gate = std::make_unique<HandshakeGate>(own.public_key(), gate_limits(config), nullptr, random);
    own_gate->set_under_load(load_forced);
  }
  return *own_gate;
}

DropReason Device::Impl::pass_gate(Bytes message, const Path& from, Now now) {
  GateMessage one;
  one.bytes = message;
  one.source = from.remote;
  gate().judge({&one, 1}, now.monotonic);
  if (one.answer) output.push_back({copy_of(one.reply), from, kNoPeer});
  return one.verdict;
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
  InitiationWork work;
  work.message = message;
  work.from = from;
  DropReason reason = open_initiation(own, work);
  if (reason == DropReason::none) reason = claim(work, now);
  if (reason == DropReason::none) {
    answer_initiation(own, random, work);
    reason = finish(work, now);
  }
  work.forget();
  return reason;
}

DropReason Device::Impl::claim(InitiationWork& work, Now now) {
  Peer* peer = find(work.remote);
  if (peer == nullptr) return DropReason::wg_unknown_peer;
  const auto index = allocate_index(*peer);
  if (!index) return DropReason::wg_sessions_full;
  const Live& state = live(*peer);
  work.peer = peer->index;
  work.preshared = peer->config.preshared_key;
  work.static_static = state.static_static;
  work.newest = state.greatest_timestamp;
  work.too_soon =
      state.initiation_received_at && now.monotonic - *state.initiation_received_at < kInitiationInterval;
  work.local_index = *index;
  return DropReason::none;
}

// Since claim(), others may have been answered, and the peer may have been changed or removed.
DropReason Device::Impl::finish(InitiationWork& work, Now now) {
  Peer* peer = find(work.remote);
  const auto give_up = [&](DropReason reason) {
    indices.release(work.local_index);
    return reason;
  };
  if (work.result != DropReason::none) return give_up(work.result);
  if (peer == nullptr || peer->index != work.peer) return give_up(DropReason::wg_unknown_peer);
  Live& state = live(*peer);
  if (!state.static_static) state.static_static = work.static_static;
  if (work.timestamp == state.greatest_timestamp) return give_up(take_copy(*peer, work.from, now));
  if (work.timestamp < state.greatest_timestamp) return give_up(DropReason::wg_handshake_replay);
  if (!work.answered || (state.initiation_received_at &&
                         now.monotonic - *state.initiation_received_at < kInitiationInterval))
    return give_up(DropReason::wg_rate_limited);
  if (work.preshared != peer->config.preshared_key) return give_up(DropReason::wg_handshake_invalid);

  state.greatest_timestamp = work.timestamp;
  state.initiation_received_at = now.monotonic;
  handshake_authenticated(*peer, work.from, now);
  install_as_responder(*peer, make_session(*peer, work.keys, work.local_index, work.message.sender.get(), false,
                                           now.monotonic), now.monotonic);
  state.response_mac1 = put_mac1(bytes_of(work.response), work.remote);
  if (peer->config.path_switch) state.response = work.response;
  state.answered_to = {work.from};
  put_mac2(bytes_of(work.response), state.cookies.find(work.from, now.monotonic));
  output.push_back({copy_of(work.response), work.from, peer->index});
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
  const Try* answered = peer != nullptr && peer->live ? try_of(*peer->live, message.receiver.get()) : nullptr;
  if (answered == nullptr) return DropReason::wg_handshake_state;
  TransportKeys transport;
  if (!open_response(own, answered->state, peer->config.preshared_key, message, transport))
    return DropReason::wg_handshake_invalid;
  const bool installed = install_as_initiator(*peer, *answered, transport, message.sender.get(), from, now);
  update_timer(*peer, now.monotonic);
  return installed ? DropReason::none : DropReason::wg_handshake_state;
}

DropReason Device::Impl::take_cookie(const CookieMessage& message, const Path& from, Now now) {
  const std::uint32_t index = message.receiver.get();
  Peer* peer = find(indices.owner(index));
  if (peer == nullptr || !peer->live) return DropReason::wg_cookie_invalid;
  Live& state = *peer->live;
  const Try* initiation = try_of(state, index);
  const bool to_response = state.next != nullptr && state.next->local_index == index;
  if (initiation == nullptr && !to_response) return DropReason::wg_cookie_invalid;
  // A standard peer may answer from another address than the one it was asked at; what was asked is what counts.
  const bool only_path = initiation != nullptr && initiation == state.pending.get() && state.sent_over.size() == 1;
  const Path& path = only_path ? state.sent_over.front() : from;
  const Mac& mac1 = initiation != nullptr ? initiation->mac1 : state.response_mac1;
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
  set_pending_aside(peer, now.monotonic);
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
  auto made = std::make_unique<Try>();
  const bool good = create_initiation(own, peer.config.public_key, *shared, ephemeral, new_timestamp(now.wall), *index,
                                      message, made->state);
  wipe(ephemeral.bytes);
  if (!good) return indices.release(*index);
  made->index = *index;
  made->mac1 = put_mac1(bytes_of(message), peer.config.public_key);
  made->sent_at = now.monotonic;
  state.pending = std::move(made);
  if (peer.config.path_switch) state.initiation = std::make_unique<InitiationMessage>(message);
  for (const Path& path : paths) {
    put_mac2(bytes_of(message), state.cookies.find(path, now.monotonic));
    output.push_back({copy_of(message), path, peer.index});
  }
  state.sent_over = paths;
  data.note_sent(0, peer.index, 0, 0, false, now.monotonic);
}

void Device::Impl::send_copies(Peer& peer, std::span<const Path> paths, Instant now) {
  Live& state = *peer.live;
  for (const Path& path : paths) {
    if (state.sent_over.size() >= kMaxCopies) return;
    put_mac2(bytes_of(*state.initiation), state.cookies.find(path, now));
    output.push_back({copy_of(*state.initiation), path, peer.index});
    state.sent_over.push_back(path);
  }
}

// A path found while a handshake is under way is not kept waiting for the retry. The initiation that is under way goes
// there as well: a fresh one would make void what is being answered, and paths that are found one by one, faster than
// an answer takes, would keep every answer from counting. Nor does the retry come before an answer to the copy may.
// Whoever has taken it already answers a copy only for a moment, so one that has been out for longer is replaced.
void Device::Impl::hurry(Peer& peer) {
  if (!peer.config.path_switch || !peer.live || !peer.live->attempting || !peer.live->initiation_sent_at) return;
  Live& state = *peer.live;
  if (state.tries <= 1 && session_live(peer, last_now)) return;  // a renewal: the primary only
  std::vector<Path> news;
  for (const Path& path : peer.handshake_paths)
    if (std::find(state.sent_over.begin(), state.sent_over.end(), path) == state.sent_over.end()) news.push_back(path);
  if (news.empty()) return;
  if (state.initiation && last_now - *state.initiation_sent_at < kPathRetryFirst) {
    send_copies(peer, news, last_now);
    state.retry_at = std::max(state.retry_at, last_now + kPathRetryAfterCopy);
  } else {
    state.retry_at = std::min(state.retry_at, *state.initiation_sent_at + kPathInitiationSpacing);
  }
  update_timer(peer, last_now);
}

// Not before an answer to the first copy may have come: punches and initiations cross each other.
void Device::Impl::copy_again(Peer& peer, const Path& path) {
  if (!peer.config.path_switch || !peer.live || !peer.live->attempting || !peer.live->initiation_sent_at) return;
  Live& state = *peer.live;
  const Duration age = last_now - *state.initiation_sent_at;
  if (!state.initiation || age < kPathInitiationSpacing || age >= kPathRetryFirst) return;
  if (std::count(state.sent_over.begin(), state.sent_over.end(), path) != 1) return;
  send_copies(peer, {&path, 1}, last_now);
  state.retry_at = std::max(state.retry_at, last_now + kPathRetryAfterCopy);
  update_timer(peer, last_now);
}

void Device::Impl::end_attempt(Peer& peer) {
  Live& state = *peer.live;
  peer.wanted = false;
  state.attempting = false;
  state.retry_at = kNever;
  state.start_at.reset();
}

const Device::Impl::Try* Device::Impl::try_of(const Live& live, std::uint32_t index) {
  if (live.pending && live.pending->index == index) return live.pending.get();
  for (const auto& one : live.earlier)
    if (one->index == index) return one.get();
  return nullptr;
}

// A path_switch peer is asked again sooner than its answer takes over a long way, and keeps what it has answered as well
// (install_as_responder): whichever answer comes first counts.
void Device::Impl::set_pending_aside(Peer& peer, Instant now) {
  Live& state = *peer.live;
  if (!state.pending || !peer.config.path_switch) return drop_pending(peer);
  state.initiation.reset();
  state.earlier.push_back(std::move(state.pending));
  while (!state.earlier.empty() &&
         (state.earlier.size() > kEarlierTries || now - state.earlier.front()->sent_at >= kEarlierTryTime)) {
    indices.release(state.earlier.front()->index);
    state.earlier.erase(state.earlier.begin());
  }
}

void Device::Impl::drop_pending(Peer& peer, std::optional<std::uint32_t> keep) {
  Live& state = *peer.live;
  if (state.pending) state.earlier.push_back(std::move(state.pending));
  drop_earlier(state, keep);
  state.initiation.reset();
}

void Device::Impl::drop_earlier(Live& state, std::optional<std::uint32_t> keep) {
  for (const auto& one : state.earlier)
    if (one->index != keep) indices.release(one->index);
  state.earlier.clear();
}

std::optional<std::uint32_t> Device::Impl::allocate_index(Peer& peer) {
  if (const auto index = indices.allocate(peer.index, random)) return index;
  if (!peer.live) return std::nullopt;
  drop_earlier(*peer.live, std::nullopt);
  drop_waiting(*peer.live);
  return indices.allocate(peer.index, random);
}

void Device::Impl::fail_attempt(Peer& peer, Now now) {
  end_attempt(peer);
  drop_pending(peer);
  peer.live->staged.clear();
  peer.keepalive_base = now.monotonic;
  emit(EventType::handshake_failed, peer);
}

}  // namespace penstock::wireguard
