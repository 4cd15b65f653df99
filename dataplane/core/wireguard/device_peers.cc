// Device: peers, endpoints and what can be asked about them.
#include <algorithm>

#include "dataplane/core/wireguard/device_impl.h"

namespace penstock::wireguard {
namespace {

std::size_t session_limit(const DeviceConfig& config) {
  return std::max<std::size_t>(config.max_sessions != 0 ? config.max_sessions : config.max_peers * 4, 4) +
         config.handshakes_in_flight;
}

std::unique_ptr<AeadContext> aead_for(const DeviceConfig& config) {
  auto context = make_aead_context(config.aead);
  return context ? std::move(context) : make_aead_context("openssl");
}

}  // namespace

std::string_view text_of(PeerError error) {
  switch (error) {
    case PeerError::none:
      return "no error";
    case PeerError::key_known:
      return "a peer with this public key exists";
    case PeerError::own_key:
      return "the public key is our own";
    case PeerError::key_invalid:
      return "the public key is not valid or not this peer's";
    case PeerError::table_full:
      return "the table of peers is full";
    case PeerError::unknown_peer:
      return "no such peer";
  }
  return "unknown error";
}

std::string_view text_of(TimerReason reason) {
  switch (reason) {
    case TimerReason::none:
      return "nothing";
    case TimerReason::handshake_retry:
      return "no answer to an initiation";
    case TimerReason::keepalive:
      return "data received, nothing sent back";
    case TimerReason::persistent_keepalive:
      return "persistent keepalive";
    case TimerReason::new_handshake:
      return "data sent, nothing heard";
    case TimerReason::session_expiry:
      return "a session becomes too old";
    case TimerReason::activity_check:
      return "look at reported activity";
  }
  return "unknown reason";
}

Device::Impl::Impl(DeviceConfig device_config, Random& device_random)
    : config(std::move(device_config)),
      random(device_random),
      own(config.private_key),
      known_sources(config.max_peers * 2, random),
      data(config.max_peers, IndexTable::slots_for(session_limit(config)), config.traffic_writers,
           config.activity_granularity),
      aead(aead_for(config)),
      indices(session_limit(config)),
      keys(random),
      last_timestamp(config.last_timestamp) {
  wipe(config.private_key.bytes);
}

Device::Impl::~Impl() {
  for (const auto& peer : peers) {
    if (!peer) continue;
    drop_all_sessions(*peer);
    wipe(peer->config.preshared_key.bytes);
  }
}

Device::Impl::Peer* Device::Impl::find(PeerIndex index) const {
  return index < peers.size() ? peers[index].get() : nullptr;
}

Device::Impl::Peer* Device::Impl::find(const PublicKey& key) const {
  return find(keys.find(key, key_of()));
}

Device::Impl::Live& Device::Impl::live(Peer& peer) const {
  if (!peer.live) peer.live = std::make_unique<Live>();
  return *peer.live;
}

void Device::Impl::move_endpoint(Peer& peer, const Path& path) {
  const std::optional<Path> known = data.endpoint(peer.index);
  if (known && *known == path) return;
  if (known) known_sources.remove(known->remote.address);
  known_sources.add(path.remote.address);
  data.set_endpoint(peer.index, path, peer.follows_source());
  emit(EventType::endpoint_changed, peer, path);
}

void Device::Impl::know_sources(const Peer& peer) {
  for (const Endpoint& hint : peer.config.endpoints) known_sources.add(hint.address);
  if (const auto known = data.endpoint(peer.index)) known_sources.add(known->remote.address);
}

void Device::Impl::forget_sources(const Peer& peer) {
  for (const Endpoint& hint : peer.config.endpoints) known_sources.remove(hint.address);
  if (const auto known = data.endpoint(peer.index)) known_sources.remove(known->remote.address);
}

void Device::Impl::emit(EventType type, const Peer& peer, const Path& path) {
  events.push_back({type, peer.index, path});
}

Device::Device(DeviceConfig config, Random& random) : impl_(std::make_unique<Impl>(std::move(config), random)) {}
Device::~Device() = default;

const PublicKey& Device::public_key() const {
  return impl_->own.public_key();
}
DataPath& Device::data_path() {
  return impl_->data;
}
void Device::map_ahead() {
  constexpr std::size_t kSessions = 256;
  Session::map_ahead(kSessions);
  if (impl_->front_mapped.exchange(true)) return;
  impl_->data.map_front();
  impl_->indices.map_front();
}
const KnownSources& Device::known_sources() const {
  return impl_->known_sources;
}

GateLimits gate_limits(const DeviceConfig& config) {
  GateLimits limits;
  limits.under_load_per_s = config.under_load_per_s;
  limits.per_source_per_s = config.per_source_per_s;
  limits.per_source_burst = config.per_source_burst;
  limits.cookies_per_s = config.cookies_per_s;
  // Sources that can be told apart: about one per expected peer, within 256 KiB to 16 MiB.
  limits.limiter_sets = std::clamp<std::size_t>(std::bit_ceil(config.max_peers / 4 + 1), 256, 65536);
  return limits;
}

AddPeerResult Device::add_peer(const PeerConfig& config, Now now) {
  Impl& d = *impl_;
  if (config.public_key.is_zero()) return {kNoPeer, PeerError::key_invalid};
  if (config.public_key == public_key()) return {kNoPeer, PeerError::own_key};
  if (d.find(config.public_key) != nullptr) return {kNoPeer, PeerError::key_known};
  PeerIndex index = kNoPeer;
  if (d.peers.size() < d.config.max_peers) {
    index = static_cast<PeerIndex>(d.peers.size());
    d.peers.emplace_back();
  } else if (!d.free_slots.empty()) {
    index = d.free_slots.front();
    d.free_slots.pop_front();
  } else {
    return {kNoPeer, PeerError::table_full};
  }
  d.peers[index] = std::make_unique<Impl::Peer>();
  Impl::Peer& peer = *d.peers[index];
  peer.config = config;
  peer.index = index;
  peer.keepalive_base = now.monotonic;
  d.keys.insert(index, d.key_of());
  ++d.peer_count;
  d.data.reset_peer(index);
  d.data.set_endpoint(index, std::nullopt, peer.follows_source());
  d.know_sources(peer);
  if (config.persistent_keepalive_s != 0) d.begin_attempt(peer, now);  // as a NAT's mapping is wanted from now on
  d.update_timer(peer, now.monotonic);
  return {index, PeerError::none};
}

PeerError Device::update_peer(PeerIndex index, const PeerConfig& config, Now now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr) return PeerError::unknown_peer;
  if (config.public_key != peer->config.public_key) return PeerError::key_invalid;
  const bool new_preshared = config.preshared_key != peer->config.preshared_key;
  const bool new_keepalive = config.persistent_keepalive_s != peer->config.persistent_keepalive_s;
  wipe(peer->config.preshared_key.bytes);
  d.forget_sources(*peer);
  peer->config = config;
  d.know_sources(*peer);
  d.data.set_endpoint(index, d.data.endpoint(index), peer->follows_source());
  if (new_keepalive) peer->keepalive_base = now.monotonic;
  if (new_preshared && peer->live) {
    // What was begun with the old key cannot be finished; established sessions are as good as before.
    Impl::Live& live = *peer->live;
    d.retire(std::exchange(live.next, nullptr));
    d.drop_waiting(live);
    const bool again = live.attempting || live.start_at.has_value();
    d.end_attempt(*peer);
    d.drop_pending(*peer);
    if (again) {
      live.initiation_sent_at.reset();  // the other end never saw a message it could have answered
      d.begin_attempt(*peer, now);
    }
  }
  if (peer->wanted) d.begin_attempt(*peer, now);
  d.update_timer(*peer, now.monotonic);
  return PeerError::none;
}

void Device::remove_peer(PeerIndex index, Now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr) return;
  d.drop_all_sessions(*peer);
  d.keys.erase(index, d.key_of());
  d.timers.set(index, kNever);
  d.forget_sources(*peer);
  d.data.reset_peer(index);
  wipe(peer->config.preshared_key.bytes);
  if (peer->live && peer->live->static_static) wipe(*peer->live->static_static);
  d.peers[index].reset();
  d.free_slots.push_back(index);
  --d.peer_count;
}

std::optional<PeerIndex> Device::find_peer(const PublicKey& key) const {
  const Impl::Peer* peer = impl_->find(key);
  return peer ? std::optional(peer->index) : std::nullopt;
}

std::size_t Device::peer_count() const {
  return impl_->peer_count;
}
PeerIndex Device::peer_bound() const {
  return static_cast<PeerIndex>(impl_->peers.size());
}

std::optional<PeerInfo> Device::peer_info(PeerIndex index) const {
  const Impl& d = *impl_;
  const Impl::Peer* peer = d.find(index);
  if (peer == nullptr) return std::nullopt;
  PeerInfo info;
  info.config = peer->config;
  wipe(info.config.preshared_key.bytes);
  info.endpoint = d.data.endpoint(index);
  const auto& slot = d.data.peers_[index];
  const auto instant = [](const std::atomic<std::int64_t>& time) -> std::optional<Instant> {
    const std::int64_t value = time.load(std::memory_order_relaxed);
    return value == 0 ? std::nullopt : std::optional(Instant(Duration(value)));
  };
  info.last_received = instant(slot.received);
  info.last_sent = instant(slot.sent);
  info.traffic = d.data.traffic(index);
  if (const Impl::Live* live = peer->live.get()) {
    if (live->handshake_at != WallTime{}) info.last_handshake = live->handshake_at;
    info.session = live->current != nullptr;
    info.initiator = live->current != nullptr && live->current->initiator;
    info.handshaking = live->attempting;
  }
  return info;
}

void Device::set_endpoint(PeerIndex index, const Path& path, Now now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr) return;
  if (peer->config.pinned_endpoint && Impl::session_live(*peer, now.monotonic)) return;
  d.move_endpoint(*peer, path);
  if (peer->wanted) d.begin_attempt(*peer, now);
  d.update_timer(*peer, now.monotonic);
}

void Device::set_handshake_paths(PeerIndex index, std::vector<Path> paths, Now now) {
  impl_->last_now = now.monotonic;
  Impl::Peer* peer = impl_->find(index);
  if (peer == nullptr) return;
  peer->handshake_paths = std::move(paths);
  impl_->hurry(*peer);
}

void Device::path_opened(PeerIndex index, const Path& path, Now now) {
  impl_->last_now = now.monotonic;
  if (Impl::Peer* peer = impl_->find(index); peer != nullptr) impl_->copy_again(*peer, path);
}

void Device::want_session(PeerIndex index, Now now) {
  Impl::Peer* peer = impl_->find(index);
  if (peer == nullptr) return;
  impl_->begin_attempt(*peer, now);
  impl_->update_timer(*peer, now.monotonic);
}

void Device::drop_sessions(PeerIndex index, Now now) {
  Impl& d = *impl_;
  Impl::Peer* peer = d.find(index);
  if (peer == nullptr || !peer->live) return;
  const bool had = peer->live->current != nullptr;
  d.drop_all_sessions(*peer);
  if (had) d.emit(EventType::session_down, *peer);
  d.update_timer(*peer, now.monotonic);
}

void Device::set_under_load(bool forced) {
  impl_->load_forced = forced;
  if (impl_->own_gate) impl_->own_gate->set_under_load(forced);
}
bool Device::under_load() const {
  return impl_->load_forced || (impl_->own_gate && impl_->own_gate->under_load(impl_->last_now));
}
const Timestamp& Device::last_timestamp() const {
  return impl_->last_timestamp;
}

std::optional<OutputDatagram> Device::poll_output() {
  if (impl_->output.empty()) return std::nullopt;
  std::optional<OutputDatagram> out(std::move(impl_->output.front()));
  impl_->output.pop_front();
  return out;
}

std::optional<Event> Device::poll_event() {
  if (impl_->events.empty()) return std::nullopt;
  const Event event = impl_->events.front();
  impl_->events.pop_front();
  return event;
}

}  // namespace penstock::wireguard
