#include "dataplane/gateway/slow_path.h"

#include <cstring>

#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/slow_path_impl.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

constexpr std::size_t kMaximumDatagram = 1200;  // of the control process: STUN and punches
constexpr std::size_t kMaximumEvents = 65536;   // older ones go: the control process resynchronises by itself

bool may_be_sent_to(const Configuration& configuration, const Endpoint& remote) {
  return remote.port != 0 && !source_is_invalid(remote.address) && configuration.ours.find(remote.address) == nullptr;
}

}  // namespace

PeerState& SlowPath::Implementation::state(PeerIndex peer) {
  if (peer >= peers.size()) peers.resize(peer + 1);
  return peers[peer];
}

void SlowPath::Implementation::event(const SlowEvent& what) {
  if (events.size() >= kMaximumEvents) events.pop_front();
  events.push_back(what);
}

void SlowPath::Implementation::wanted(PeerIndex peer, const IpAddress& proxy, Now now) {
  if (peer >= peers.size() || !peers[peer].known || !peers[peer].control_limit.take(now.monotonic)) return;
  event(TranslationWanted{peer, peers[peer].key, proxy});
}

void SlowPath::Implementation::send_datagram(const Path& path, Bytes payload) {
  Packet* packet = context.allocate();
  if (packet == nullptr) return;
  if (!packet->append(static_cast<std::uint16_t>(payload.size()))) return context.drop(packet, DropReason::no_buffer);
  std::memcpy(packet->data, payload.data(), payload.size());
  packet->outer = path;
  context.emit(packet, ToWorker::datagram, 0);
}

void SlowPath::Implementation::settle(Now now) {
  while (const auto output = device.poll_output()) send_datagram(output->path, output->bytes);
  while (const auto what = device.poll_event()) handle_event(*what, now);
  while (const auto mapped = stun.poll_mapped()) {
    event(MappedAddressChanged{mapped->server, mapped->mapped});
    if (mapped->changed) watch.address_changed(now.monotonic);
  }
  stun.set_pace(watch.pace(now.monotonic), now.monotonic);
  while (const auto request = stun.poll_request()) {
    std::array<std::uint8_t, 64> buffer;
    send_datagram(Path{{}, request->server, 0}, stun::build_binding_request(buffer, request->transaction));
  }
  while (const auto output = device.poll_output()) send_datagram(output->path, output->bytes);
}

void SlowPath::Implementation::handle_event(const wireguard::Event& what, Now now) {
  PeerState& peer = state(what.peer);
  if (!peer.known) return;
  switch (what.type) {
    case wireguard::EventType::session_up:
      event(SessionUp{what.peer, peer.key, what.path.remote});
      [[fallthrough]];
    case wireguard::EventType::session_renewed:
      peer.session_is_new = true;
      watch.heard_from(what.peer, what.path, now.monotonic);
      return for_session.release(what.peer);
    case wireguard::EventType::session_down:
      return event(SessionDown{what.peer, peer.key});
    case wireguard::EventType::handshake_failed:
      return for_session.give_up(what.peer, DropReason::wg_no_session);
    case wireguard::EventType::endpoint_changed:
      watch.heard_from(what.peer, what.path, now.monotonic);
      return event(EndpointChanged{what.peer, peer.key, what.path.remote});
  }
}

SlowPath::SlowPath(const Configuration& configuration, const wireguard::DeviceConfig& device,
                   const PolicyTable& policies, NeighbourTable& neighbours, PacketSource& packets, Random& random,
                   Now now, const SlowPathLimits& limits)
    : implementation_(
          std::make_unique<Implementation>(configuration, device, policies, neighbours, packets, random, limits)) {
  implementation_->settle(now);
}

SlowPath::~SlowPath() = default;

void SlowPath::handle(std::span<Packet* const> packets, Now now) {
  for (Packet* packet : packets) {
    implementation_->handle(packet, now);
    implementation_->settle(now);
  }
}

void SlowPath::handle_initiation(wireguard::InitiationWork& work, Now now) {
  using Progress = wireguard::InitiationWork::Stage;
  Implementation& me = *implementation_;
  const bool finishing = work.stage == Progress::answered;
  const DropReason reason = finishing ? me.device.finish(work, now) : me.device.claim(work, now);
  if (reason != DropReason::none) ++me.context.drops[static_cast<std::size_t>(reason)];
  work.stage = finishing || reason != DropReason::none ? Progress::done : Progress::claimed;
  if (finishing) me.settle(now);
}

std::optional<PeerIndex> SlowPath::upsert_peer(const wireguard::PeerConfig& config, Now now) {
  Implementation& me = *implementation_;
  std::optional<PeerIndex> index = me.device.find_peer(config.public_key);
  const bool is_new = !index;
  if (index) {
    if (me.device.update_peer(*index, config, now) != wireguard::PeerError::none) return std::nullopt;
  } else {
    const wireguard::AddPeerResult added = me.device.add_peer(config, now);
    if (added.error != wireguard::PeerError::none) return std::nullopt;
    index = added.peer;
    PeerState& peer = me.state(*index);
    peer = PeerState{};
    peer.known = true;
    peer.key = config.public_key.bytes;
    peer.control_limit = TokenBucket{me.context.limits.control_per_second, me.context.limits.control_burst};
  }
  if (config.pinned_endpoint)
    me.watch.forget(*index);  // a 1.0 client: none of the repairs
  else
    me.watch.set_endpoints(*index, config.endpoints, now.monotonic);
  if (is_new && !me.inherited.empty()) me.take_up(*index, config.public_key.bytes, !config.pinned_endpoint, now);
  me.settle(now);
  return index;
}

bool SlowPath::remove_peer(const PeerKey& key, Now now) {
  Implementation& me = *implementation_;
  const std::optional<PeerIndex> index = find_peer(key);
  if (!index) return false;
  me.for_session.give_up(*index, DropReason::wg_no_session);
  me.for_name.policy_published(*index, nullptr, now.monotonic);
  me.device.remove_peer(*index, now);
  me.settle(now);
  me.watch.forget(*index);
  me.peers[*index] = PeerState{};
  return true;
}

std::optional<PeerIndex> SlowPath::find_peer(const PeerKey& key) const {
  return implementation_->device.find_peer(wireguard::PublicKey{key});
}

void SlowPath::policy_published(PeerIndex peer, Now now) {
  implementation_->for_name.policy_published(peer, implementation_->policies.find(peer), now.monotonic);
  implementation_->settle(now);
}

void SlowPath::set_stun_servers(std::span<const Endpoint> servers, Now now) {
  Implementation& me = *implementation_;
  std::vector<Endpoint> usable;
  for (const Endpoint& server : servers) {
    const IpAddress& source =
        server.address.is_v4() ? me.context.configuration.tunnel_v4 : me.context.configuration.tunnel_v6;
    if (may_be_sent_to(me.context.configuration, server) && !source.is_unspecified()) usable.push_back(server);
  }
  me.stun.set_servers(usable, now.monotonic);
  me.settle(now);
}

DropReason SlowPath::send_datagram(const Endpoint& remote, Bytes payload, Now) {
  Implementation& me = *implementation_;
  const Configuration& configuration = me.context.configuration;
  if (payload.empty() || payload.size() > kMaximumDatagram) return DropReason::too_big;
  if (!may_be_sent_to(configuration, remote)) return DropReason::policy_forbidden_destination;
  if ((remote.address.is_v4() ? configuration.tunnel_v4 : configuration.tunnel_v6).is_unspecified())
    return DropReason::wg_no_endpoint;
  me.send_datagram(Path{{}, remote, 0}, payload);
  return DropReason::none;
}

DropReason SlowPath::send_control(PeerIndex index, Bytes payload, Now now) {
  Implementation& me = *implementation_;
  const policy::PeerPolicy* policy = me.policies.find(index);
  if (policy == nullptr || !policy->control) return DropReason::control_not_allowed;
  if (payload.size() + 1 + wireguard::kControlHeaderSize > me.context.configuration.inner_mtu)
    return DropReason::too_big;
  Packet* packet = me.context.allocate();
  if (packet == nullptr) return DropReason::no_buffer;
  const auto length = static_cast<std::uint16_t>(payload.size() + 1);
  if (!packet->append(static_cast<std::uint16_t>(wireguard::kControlHeaderSize + length))) {
    me.context.drop(packet, DropReason::no_buffer);
    return DropReason::no_buffer;
  }
  wireguard::write_control_header(packet->bytes(), wireguard::ControlDirection::to_client, length);
  packet->data[wireguard::kControlHeaderSize] = static_cast<std::uint8_t>(wireguard::ControlType::message);
  std::memcpy(packet->data + wireguard::kControlHeaderSize + 1, payload.data(), payload.size());
  set_flag(*packet, packet_flag::ip6);
  packet->peer = index;
  packet->rss_worker = 0;
  me.watch.count_overhead(index);
  me.wait_for_session(packet, now);  // goes at once where there is a session
  me.settle(now);
  return DropReason::none;
}

SlowOutput& SlowPath::output() {
  return implementation_->context.output;
}

std::optional<SlowEvent> SlowPath::poll_event() {
  std::deque<SlowEvent>& events = implementation_->events;
  if (events.empty()) return std::nullopt;
  SlowEvent event = events.front();
  events.pop_front();
  return event;
}

SlowDeadline SlowPath::poll_timeout() const {
  const Implementation& me = *implementation_;
  SlowDeadline first;
  const auto consider = [&first](Instant at, const char* why) {
    if (at < first.at) first = {at, why};
  };
  const wireguard::Deadline device = me.device.poll_timeout();
  consider(device.at, text_of(device.why).data());
  consider(me.neighbours.next_timeout(), "neighbour");
  consider(me.for_session.next_timeout(), "packets waiting for a session");
  consider(me.for_name.next_timeout(), "packets waiting for a name");
  consider(me.stun.next_timeout(), "STUN tick");
  consider(me.watch.next_timeout(), "peers' silence and healing");
  return first;
}

void SlowPath::handle_timeout(Now now) {
  Implementation& me = *implementation_;
  me.device.handle_timeout(now);
  me.neighbours.handle_timeout(now.monotonic);
  me.for_session.handle_timeout(now.monotonic);
  me.for_name.handle_timeout(now.monotonic);
  me.watch.handle_timeout(now.monotonic);
  me.settle(now);
  me.stun.handle_timeout(now.monotonic);
  me.settle(now);
}

wireguard::Device& SlowPath::tunnels() {
  return implementation_->device;
}
const std::array<std::uint64_t, kDropReasonCount>& SlowPath::drops() const {
  return implementation_->context.drops;
}
std::size_t SlowPath::held() const {
  return implementation_->neighbours.held() + implementation_->for_session.held() + implementation_->for_name.held();
}

}  // namespace penstock::gateway
