// SlowPath: packets from workers. Each is dropped with a reason, held, or handed to a worker or the control process.
#include <algorithm>
#include <cstring>

#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/slow_path_impl.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

bool quotes_session(Bytes message, const wireguard::Session& session) {
  const auto* header = reinterpret_cast<const wireguard::DataHeader*>(message.data());
  if (message.size() < offsetof(wireguard::DataHeader, counter)) return true;
  return header->type.get() == static_cast<std::uint32_t>(wireguard::MessageType::data) &&
         header->receiver.get() == session.remote_index;
}

}  // namespace

void SlowPath::Implementation::handle(Packet* packet, Now now) {
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

void SlowPath::Implementation::handle_note(Packet* packet, Now now) {
  wireguard::Note note;
  note.bits = static_cast<wireguard::NoteBits>(packet->user >> 8);
  note.session = static_cast<std::uint32_t>(packet->user >> 32);
  note.peer = packet->peer;
  note.from = packet->outer;
  device.handle_note(note, now);
  if ((note.bits & wireguard::note_bit::endpoint_moved) != 0) watch.heard_from(note.peer, note.from, now.monotonic);
  context.drop(packet, DropReason::local_consumed);
}

void SlowPath::Implementation::handle_stun(Packet* packet, Now now) {
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
void SlowPath::Implementation::handle_control(Packet* packet, Now now) {
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

void SlowPath::Implementation::handle_probe(Packet* packet, Bytes payload, Now now) {
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
  const auto report = probe->report ? wireguard::parse_report(payload) : std::nullopt;
  if (!probe->sized)
    watch.probed(packet->peer, packet->outer, {moved, probe->doubt, report ? &*report : nullptr},
                 std::chrono::microseconds{probe->rtt_us}, now.monotonic);
  if (says) peer.session_is_new = false;
  // A sized one asks whether packets of its length get through, also on the way back; no longer than what came.
  std::size_t size = probe->sized ? std::max(payload.size(), wireguard::kProbeSize) : wireguard::kProbeSize;
  wireguard::Probe answer = wireguard::reply_to(*probe);
  answer.report = report.has_value() && !probe->sized;
  if (answer.report) size += wireguard::kReportSize;
  const auto reply = wireguard::make_probe_packet(answer, wireguard::ControlDirection::to_client);
  packet->truncate(0);
  if (!packet->append(static_cast<std::uint16_t>(wireguard::kControlHeaderSize + size)))
    return context.drop(packet, DropReason::no_headroom);
  std::memcpy(packet->data, reply.data(), reply.size());
  std::memset(packet->data + reply.size(), 0, packet->length - reply.size());
  if (size != wireguard::kProbeSize)
    wireguard::write_control_header(packet->bytes(), wireguard::ControlDirection::to_client,
                                    static_cast<std::uint16_t>(size));
  if (answer.report)
    wireguard::write_report(packet->bytes().last(wireguard::kReportSize),
                            device.data_path().reception(packet->peer, now.monotonic));
  const PeerIndex index = packet->peer;
  make_own(*packet);
  packet->peer = index;
  set_flag(*packet, packet_flag::ip6);
  watch.count_overhead(index);
  // Back to where it came from: that is what the probe asks about.
  context.emit(packet, ToWorker::to_peer_on_path, packet->rss_worker);
}

// RFC 4301 §6 in spirit: a hint, and only when it quotes what we really sent. A router that quotes no more than RFC 792
// asks of it (eight bytes, the UDP header) is believed by the addresses; all others have to know the session.
void SlowPath::Implementation::handle_outer_error(Packet* packet, Now now) {
  const Bytes quoted = Bytes{packet->bytes()}.subspan(packet->l4_offset + sizeof(IcmpHeader));
  const IpParse parse = parse_ip(quoted, ParseMode::quoted);
  PeerIndex peer = kNoPeer;
  Endpoint remote;
  Bytes message;
  if (parse.reason == DropReason::none && quoted.size() >= parse.view.header_length + sizeof(UdpHeader)) {
    const Bytes datagram = quoted.subspan(parse.view.header_length);
    remote = {ip_destination(quoted, parse.view), view_as<UdpHeader>(datagram)->destination_port.host()};
    message = datagram.subspan(sizeof(UdpHeader));
    peer = watch.peer_at(remote);
  }
  const wireguard::Session* session =
      peer == kNoPeer ? nullptr : device.data_path().sending_session(peer, now.monotonic);
  // Whether another address of the peer can be reached says nothing about the one in use.
  const auto endpoint = peer == kNoPeer ? std::nullopt : device.data_path().endpoint(peer);
  if (session == nullptr || !endpoint || endpoint->remote != remote || !quotes_session(message, *session))
    return context.drop(packet, DropReason::icmp_error_unmatched);
  watch.suspect(peer, now.monotonic);
  context.drop(packet, DropReason::local_consumed);
}

void SlowPath::Implementation::wait_for_session(Packet* packet, Now now) {
  const PeerIndex peer = packet->peer;
  if (peer >= peers.size() || !peers[peer].known) return context.drop(packet, DropReason::wg_no_session);
  if (device.data_path().sending_session(peer, now.monotonic) != nullptr)  // it came up meanwhile
    return context.emit(packet,
                        has_flag(*packet, packet_flag::on_path) ? ToWorker::to_peer_on_path : ToWorker::to_peer,
                        packet->rss_worker);
  if (for_session.hold(packet, now.monotonic)) device.want_session(peer, now);
}

void SlowPath::Implementation::wait_for_name(Packet* packet, Now now) {
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

}  // namespace penstock::gateway
