#include "dataplane/gateway/slow_path.h"

#include <algorithm>
#include <deque>
#include <map>

#include "dataplane/core/handover/state.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/neighbours.h"
#include "dataplane/gateway/peer_watch.h"
#include "dataplane/gateway/slow_context.h"
#include "dataplane/gateway/stun_tick.h"
#include "dataplane/gateway/waiting.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

constexpr std::size_t kMaximumDatagram = 1200;  // of the control process: STUN and punches
constexpr std::size_t kMaximumEvents = 65536;   // older ones go: the control process resynchronises by itself

// Control traffic and probes of one peer; slots follow the Device's.
struct PeerState {
  bool known = false;
  PeerKey key{};
  std::uint32_t switch_sequence = 0;
  bool session_is_new = false;  // a restarted client counts its switches from the beginning
  TokenBucket control_limit{1, 1};
};

bool may_be_sent_to(const Configuration& configuration, const Endpoint& remote) {
  return remote.port != 0 && !source_is_invalid(remote.address) && configuration.ours.find(remote.address) == nullptr;
}

}  // namespace

struct SlowPath::Implementation {
  Implementation(const Configuration& configuration, const wireguard::DeviceConfig& device_config,
                 const PolicyTable& policy_table, NeighbourTable& table, PacketSource& packets, Random& random,
                 const SlowPathLimits& limits)
      : context{configuration, packets, random, limits},
        policies(policy_table),
        device(device_config, random),
        neighbours(context, table),
        for_session(context),
        for_name(context),
        stun(random),
        watch(context, device.data_path()) {}

  SlowContext context;
  const PolicyTable& policies;
  wireguard::Device device;
  Neighbours neighbours;
  SessionQueue for_session;
  NameQueue for_name;
  StunTick stun;
  PeerWatch watch;
  std::vector<PeerState> peers;
  std::deque<SlowEvent> events;
  std::map<PeerKey, handover::Peer> inherited;
  std::size_t inherited_sessions = 0;

  // What the process before knew of a peer that has just been added.
  void take_up(PeerIndex index, const PeerKey& key, bool watched, Now now) {
    const auto found = inherited.find(key);
    if (found == inherited.end()) return;
    const handover::Peer& before = found->second;
    inherited_sessions += device.import_peer(index, before.tunnel, now);
    peers[index].switch_sequence = before.switch_sequence;
    if (watched) watch.inherit(index, before.addresses);
    inherited.erase(found);
  }

  PeerState& state(PeerIndex peer) {
    if (peer >= peers.size()) peers.resize(peer + 1);
    return peers[peer];
  }

  void event(const SlowEvent& what) {
    if (events.size() >= kMaximumEvents) events.pop_front();
    events.push_back(what);
  }

  void handle(Packet* packet, Now now) {
    switch (kind_of<ToSlow>(*packet)) {
      case ToSlow::handshake: {
        const DropReason reason = device.handle_handshake(packet->bytes(), packet->outer, now);
        return context.drop(packet, reason == DropReason::none ? DropReason::local_consumed : reason);
      }
      case ToSlow::admitted_handshake: {
        const DropReason reason = device.handle_admitted(packet->bytes(), packet->outer, now);
        return context.drop(packet, reason == DropReason::none ? DropReason::local_consumed : reason);
      }
      case ToSlow::note:
        return handle_note(packet, now);
      case ToSlow::stun:
        return handle_stun(packet, now);
      case ToSlow::control:
        return handle_control(packet, now);
      case ToSlow::outer_error:
        return handle_outer_error(packet, now);
      case ToSlow::neighbour:
        return neighbours.learn(packet, now.monotonic);
      case ToSlow::neighbour_wait:
        return neighbours.wait(packet, now.monotonic);
      case ToSlow::session_wait:
        return wait_for_session(packet, now);
      case ToSlow::name_wait:
        return wait_for_name(packet, now);
      case ToSlow::spoke_first:
        watch.spoke_first(packet->peer, now.monotonic);
        return context.drop(packet, DropReason::local_consumed);
      case ToSlow::name_unknown:
        wanted(packet->peer, ip_destination(*packet), now);
        return context.drop(packet, DropReason::name_unknown);
    }
    context.drop(packet, DropReason::local_consumed);
  }

  void handle_note(Packet* packet, Now now) {
    wireguard::Note note;
    note.bits = static_cast<wireguard::NoteBits>(packet->user >> 8);
    note.session = static_cast<std::uint32_t>(packet->user >> 32);
    note.peer = packet->peer;
    note.from = packet->outer;
    device.handle_note(note, now);
    if ((note.bits & wireguard::note_bit::endpoint_moved) != 0) watch.heard_from(note.peer, note.from, now.monotonic);
    context.drop(packet, DropReason::local_consumed);
  }

  void handle_stun(Packet* packet, Now now) {
    switch (stun.handle(packet->bytes(), packet->outer.remote, now.monotonic)) {
      case StunTick::Verdict::consumed:
        return context.drop(packet, DropReason::local_consumed);
      case StunTick::Verdict::malformed:
        return context.drop(packet, DropReason::stun_malformed);
      case StunTick::Verdict::not_ours:
        packet->peer = kNoPeer;
        context.output.punt.push_back(packet);
        return;
    }
  }

  // Data at the inner IPv6 header; the worker has checked the addresses, the peer's right and the type.
  void handle_control(Packet* packet, Now now) {
    const auto control = wireguard::parse_control(packet->bytes());
    if (!control || packet->peer >= peers.size() || !peers[packet->peer].known)
      return context.drop(packet, DropReason::control_malformed);
    if (control->type == wireguard::ControlType::probe) return handle_probe(packet, control->payload, now);
    if (!peers[packet->peer].control_limit.take(now.monotonic))
      return context.drop(packet, DropReason::control_rate_limited);
    watch.heard_from(packet->peer, packet->outer, now.monotonic);
    const auto payload = static_cast<std::uint16_t>(control->payload.size());
    packet->pull(wireguard::kControlHeaderSize);
    packet->truncate(payload);
    packet->pull(1);  // the type
    context.output.punt.push_back(packet);
  }

  void handle_probe(Packet* packet, Bytes payload, Now now) {
    const auto probe = wireguard::parse_probe(payload);
    if (!probe) return context.drop(packet, DropReason::control_malformed);
    PeerState& peer = peers[packet->peer];
    watch.count_overhead(packet->peer);
    if (probe->inner_mtu != 0) device.data_path().set_inner_mtu(packet->peer, probe->inner_mtu);
    // Zero says nothing: it is what probes of other paths than the primary carry, whatever the session's age.
    const bool says = probe->switch_sequence != 0;
    const bool restarted = says && peer.session_is_new && probe->switch_sequence < peer.switch_sequence;
    bool moved = false;
    if (probe->switch_sequence > peer.switch_sequence || restarted) {
      const auto before = device.data_path().endpoint(packet->peer);
      moved = !before || before->remote != packet->outer.remote;
      peer.switch_sequence = probe->switch_sequence;
      device.set_endpoint(packet->peer, packet->outer, now);
    }
    if (!probe->sized)
      watch.probed(packet->peer, packet->outer, {moved, probe->doubt}, std::chrono::microseconds{probe->rtt_us},
                   now.monotonic);
    if (says) peer.session_is_new = false;
    // A sized one asks whether packets of its length get through, also on the way back; no longer than what came.
    const std::size_t size = probe->sized ? std::max(payload.size(), wireguard::kProbeSize) : wireguard::kProbeSize;
    const auto reply = wireguard::make_probe_packet(wireguard::reply_to(*probe), wireguard::ControlDirection::to_client);
    packet->truncate(0);
    if (!packet->append(static_cast<std::uint16_t>(wireguard::kControlHeaderSize + size)))
      return context.drop(packet, DropReason::no_headroom);
    std::memcpy(packet->data, reply.data(), reply.size());
    std::memset(packet->data + reply.size(), 0, packet->length - reply.size());
    if (probe->sized)
      wireguard::write_control_header(packet->bytes(), wireguard::ControlDirection::to_client,
                                      static_cast<std::uint16_t>(size));
    const PeerIndex index = packet->peer;
    make_own(*packet);
    packet->peer = index;
    set_flag(*packet, packet_flag::ip6);
    watch.count_overhead(index);
    // Back to where it came from: that is what the probe asks about.
    context.emit(packet, ToWorker::to_peer_on_path, packet->rss_worker);
  }

  // RFC 4301 §6 in spirit: a hint, and only when it quotes what we really sent.
  void handle_outer_error(Packet* packet, Now now) {
    const Bytes quoted = Bytes{packet->bytes()}.subspan(packet->l4_offset + sizeof(IcmpHeader));
    const IpParse parse = parse_ip(quoted, ParseMode::quoted);
    PeerIndex peer = kNoPeer;
    if (parse.reason == DropReason::none && quoted.size() >= parse.view.header_length + sizeof(UdpHeader)) {
      const auto* udp = view_as<UdpHeader>(quoted.subspan(parse.view.header_length));
      peer = watch.peer_at({ip_destination(quoted, parse.view), udp->destination_port.host()});
    }
    if (peer == kNoPeer || device.data_path().sending_session(peer, now.monotonic) == nullptr)
      return context.drop(packet, DropReason::icmp_error_unmatched);
    watch.suspect(peer, now.monotonic);
    context.drop(packet, DropReason::local_consumed);
  }

  void wait_for_session(Packet* packet, Now now) {
    const PeerIndex peer = packet->peer;
    if (peer >= peers.size() || !peers[peer].known) return context.drop(packet, DropReason::wg_no_session);
    if (device.data_path().sending_session(peer, now.monotonic) != nullptr)  // it came up meanwhile
      return context.emit(packet,
                          has_flag(*packet, packet_flag::on_path) ? ToWorker::to_peer_on_path : ToWorker::to_peer,
                          packet->rss_worker);
    if (for_session.hold(packet, now.monotonic)) device.want_session(peer, now);
  }

  void wait_for_name(Packet* packet, Now now) {
    const PeerIndex peer = packet->peer;
    const policy::PeerPolicy* policy = policies.find(peer);
    if (policy == nullptr) return context.drop(packet, DropReason::policy_no_resource);
    const IpAddress proxy = ip_destination(*packet);
    const bool again = has_flag(*packet, packet_flag::held);
    if (for_name.hold(packet, *policy, now.monotonic)) wanted(peer, proxy, now);
    // It may have been published while the packet was on its way here. One that was judged anew and came back waits for
    // the next policy: otherwise it would go round.
    if (!again) for_name.policy_published(peer, policy, now.monotonic);
  }

  void wanted(PeerIndex peer, const IpAddress& proxy, Now now) {
    if (peer >= peers.size() || !peers[peer].known || !peers[peer].control_limit.take(now.monotonic)) return;
    event(TranslationWanted{peer, peers[peer].key, proxy});
  }

  void send_datagram(const Path& path, Bytes payload) {
    Packet* packet = context.allocate();
    if (packet == nullptr) return;
    if (!packet->append(static_cast<std::uint16_t>(payload.size()))) return context.drop(packet, DropReason::no_buffer);
    std::memcpy(packet->data, payload.data(), payload.size());
    packet->outer = path;
    context.emit(packet, ToWorker::datagram, 0);
  }

  // What the sans-IO objects have to say after an input.
  void settle(Now now) {
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

  void handle_event(const wireguard::Event& what, Now now) {
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
};

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

std::vector<PeerIndex> SlowPath::export_state(handover::State& to) const {
  const Implementation& me = *implementation_;
  std::vector<PeerIndex> positions(me.device.peer_bound(), kNoPeer);
  for (PeerIndex index = 0; index < positions.size(); ++index) {
    auto tunnel = me.device.export_peer(index);
    if (!tunnel) continue;
    positions[index] = static_cast<PeerIndex>(to.peers.size());
    handover::Peer& peer = to.peers.emplace_back();
    peer.tunnel = std::move(*tunnel);
    if (index < me.peers.size()) peer.switch_sequence = me.peers[index].switch_sequence;
    peer.addresses = me.watch.addresses(index);
  }
  to.last_timestamp = me.device.last_timestamp();
  to.neighbours = me.neighbours.usable();
  return positions;
}

void SlowPath::inherit(handover::State& from, std::span<const PortIndex> ports, Now now) {
  Implementation& me = *implementation_;
  me.device.import_timestamp(from.last_timestamp);
  for (handover::Peer& peer : from.peers) {
    const PeerKey key = peer.tunnel.public_key.bytes;
    me.inherited.emplace(key, std::move(peer));
  }
  from.peers.clear();
  for (const handover::Neighbour& neighbour : from.neighbours)
    if (neighbour.port < ports.size() && ports[neighbour.port] != kNoPort)
      me.neighbours.inherit(ports[neighbour.port], neighbour.address, neighbour.mac, now.monotonic);
}

std::size_t SlowPath::forget_inherited() {
  implementation_->inherited.clear();
  return implementation_->inherited_sessions;
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
