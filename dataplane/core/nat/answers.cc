// What leaves a translator: packets on their way, packets that end here, and what their senders are told.
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

bool fill_udp_checksum(std::span<Packet* const> pieces, std::uint16_t payload_length) {
  Packet& first = *pieces.front();
  auto* udp = view_as<UdpHeader>(first.bytes().subspan(first.l4_offset));
  if (udp == nullptr || udp->length.host() != payload_length) return false;
  if (udp->checksum.raw() != 0) return true;
  const IpParse parsed = parse_ip(first);
  ChecksumSum sum =
      checksum_pseudo_header(ip_source(first.bytes(), parsed.view), ip_destination(first.bytes(), parsed.view),
                             ip_protocol::udp, payload_length);
  // Every piece but the last is a multiple of eight bytes long, so all begin at an even offset.
  for (Packet* piece : pieces) sum = checksum_add(sum, Bytes{piece->bytes()}.subspan(piece->l4_offset));
  be16 checksum = checksum_finish(sum);
  if (checksum.raw() == 0) checksum = be16::from_host(0xffff);
  udp->checksum = checksum;
  return true;
}

Classified Translator::Implementation::classify_collected(const Datagram& datagram, bool down) {
  Packet& first = *datagram.pieces.front();
  Classified out;
  const IpParse parsed = parse_ip(first);
  out.view = parsed.view;
  out.reason = parsed.reason;
  if (parsed.reason != DropReason::none) return out;
  out.protocol =
      parsed.view.protocol == ip_protocol::icmpv6 && parsed.view.v6() ? ip_protocol::icmp : parsed.view.protocol;
  out.tuple.source = ip_source(first.bytes(), parsed.view);
  out.tuple.destination = ip_destination(first.bytes(), parsed.view);
  // The first piece must hold the transport header whole (RFC 1858 §3.2.1).
  const Bytes transport = Bytes{first.bytes()}.subspan(parsed.view.header_length);
  const auto port = [&](std::size_t at) {
    be16 value;
    std::memcpy(&value, transport.data() + at, 2);
    return value.host();
  };
  out.reason = DropReason::transport_malformed;
  switch (parsed.view.protocol) {
    case ip_protocol::tcp:
    case ip_protocol::udp:
      if (transport.size() < (parsed.view.protocol == ip_protocol::tcp ? sizeof(TcpHeader) : sizeof(UdpHeader)))
        return out;
      out.tuple.source_port = port(0);
      out.tuple.destination_port = port(2);
      break;
    case ip_protocol::icmp:
    case ip_protocol::icmpv6: {
      const bool v6 = parsed.view.v6();
      if (transport.size() < sizeof(IcmpHeader) || (parsed.view.protocol == ip_protocol::icmpv6) != v6) return out;
      out.kind = PacketKind::error;
      out.reason = DropReason::none;
      if (is_icmp_error(transport[0], v6)) return out;
      out.kind = PacketKind::other;
      out.reason = DropReason::icmp_type_unsupported;
      const std::uint8_t wanted =
          down ? (v6 ? icmp6::echo_reply : icmp4::echo_reply) : (v6 ? icmp6::echo : icmp4::echo);
      if (transport[0] != wanted) return out;
      (down ? out.tuple.destination_port : out.tuple.source_port) = port(4);
      break;
    }
    default:
      if (carried_without_ports(parsed.view.protocol)) break;
      out.kind = PacketKind::other;
      out.reason = DropReason::nat_protocol_unsupported;
      return out;
  }
  out.kind = PacketKind::query;
  out.reason = DropReason::none;
  return out;
}

Packet* Translator::Implementation::join(const Call& call, const Datagram& datagram) {
  Packet* joined = join_fragments(datagram.pieces, *packets_);
  drop(call, datagram, joined != nullptr ? DropReason::local_consumed : DropReason::nat_fragment_limit);
  return joined;
}

Fitting Translator::Implementation::fit_datagram(const Datagram& datagram, const IpView& view, bool to6,
                                                 std::uint16_t mtu) const {
  if (datagram.pieces.size() == 1) return fit_packet(view, to6, mtu, config_.lowest_ipv6_mtu);
  Fitting out;
  for (Packet* piece : datagram.pieces) {
    const Fitting one = fit_packet(parse_ip(*piece).view, to6, mtu, config_.lowest_ipv6_mtu);
    if (one.fit == Fit::too_big) return one;
    if (one.fit == Fit::cut) out = one;
  }
  return out;
}

MtuContext Translator::Implementation::mtu_context(const flow::FlowRecord& record, const Quoted& quoted) const {
  MtuContext out;
  const bool inside6 = record.inside_source.is_v6();
  const bool outside6 = record.remote.is_v6();
  out.mtu_v4 = inside6 ? config_.mtu_outside : config_.mtu_inside;
  out.mtu_v6 = inside6 ? config_.mtu_inside : config_.mtu_outside;
  if (inside6 == outside6) out.mtu_v4 = out.mtu_v6 = config_.mtu_inside;
  out.quoted_length = quoted.view.total_length;
  out.quoted_fragment_header = quoted.view.has_fragment_header;
  return out;
}

void Translator::Implementation::drop(const Call& call, Packet& packet, DropReason reason) const {
  call.out->add({&packet, Action::drop, reason, 0});
}

void Translator::Implementation::drop(const Call& call, const Datagram& datagram, DropReason reason) const {
  for (Packet* piece : datagram.pieces) drop(call, *piece, reason);
}

void Translator::Implementation::hand_over(const Call& call, const Datagram& datagram, std::uint16_t owner) const {
  for (Packet* piece : datagram.pieces) {
    piece->flow = kCollected;
    call.out->add({piece, Action::handover, DropReason::none, owner});
  }
}

void Translator::Implementation::refuse_up(const Call& call, const Datagram& datagram, const IpView& view,
                                           DropReason reason, IcmpProblem problem, std::uint32_t value) {
  Packet& first = *datagram.pieces.front();
  const Bytes offending{first.data, first.length};
  if (problem != IcmpProblem::none && may_be_answered(offending, view) &&
      limiter_inside_.allow(first.peer, call.now.monotonic)) {
    const IpAddress& from = view.v6() ? config_.own_inside_v6 : config_.own_inside_v4;
    if (Packet* answer = build_icmp_error(*packets_, offending, view, from, problem, value)) {
      answer->peer = first.peer;
      ++counters_.icmp_errors_sent;
      call.out->add({answer, Action::to_inside, DropReason::none, 0});
    }
  }
  drop(call, datagram, reason);
}

void Translator::Implementation::refuse_down(const Call& call, const Datagram& datagram, const IpView& view,
                                             DropReason reason, IcmpProblem problem, std::uint32_t value) {
  Packet& first = *datagram.pieces.front();
  const Bytes offending{first.data, first.length};
  if (may_be_answered(offending, view) &&
      limiter_outside_.allow(hash_value(ip_source(offending, view)), call.now.monotonic)) {
    if (Packet* answer =
            build_icmp_error(*packets_, offending, view, ip_destination(offending, view), problem, value)) {
      ++counters_.icmp_errors_sent;
      to_lan(call, *answer);
    }
  }
  drop(call, datagram, reason);
}

void Translator::Implementation::reset_up(const Call& call, const Datagram& datagram, const IpView& view) {
  Packet& first = *datagram.pieces.front();
  if (limiter_inside_.allow(first.peer, call.now.monotonic)) {
    if (Packet* answer = build_tcp_reset(*packets_, {first.data, first.length}, view)) {
      answer->peer = first.peer;
      ++counters_.resets_sent;
      call.out->add({answer, Action::to_inside, DropReason::none, 0});
    }
  }
  drop(call, datagram, DropReason::flow_tcp_not_syn);
}

void Translator::Implementation::forward(const Call& call, const Datagram& datagram, const IpView& view,
                                         const Rewrite& rewrite, const HeaderOptions& options, Action action,
                                         PeerIndex peer, flow::Slot slot, std::uint16_t limit) {
  const auto give_out = [&](Packet& packet) {
    if (action == Action::to_outside) return to_lan(call, packet);
    call.out->add({&packet, action, DropReason::none, 0});
  };
  for (Packet* piece : datagram.pieces) {
    DropReason reason =
        translate_packet(*piece, datagram.pieces.size() == 1 ? view : parse_ip(*piece).view, rewrite, options);
    piece->peer = peer;
    piece->flow = slot + 1;
    if (reason == DropReason::none && limit != 0 && piece->length > limit) {
      cut_.clear();
      // RFC 7915 §4.1: the fragment header's identification is the IPv4 header's.
      const std::uint32_t identification = options.set_identification ? options.identification : view.identification;
      reason = fragment_packet(*piece, limit, identification, *packets_, cut_);
      for (Packet* part : cut_) {
        if (reason != DropReason::none) {
          drop(call, *part, reason);
        } else {
          give_out(*part);
        }
      }
      if (reason != DropReason::none) drop(call, *piece, reason);
      continue;
    }
    if (reason != DropReason::none) {
      drop(call, *piece, reason);
    } else {
      give_out(*piece);
    }
  }
}

void Translator::Implementation::give_out_refused(Outcomes& out) {
  for (const auto& refused : fragments_.refused()) out.add({refused.packet, Action::drop, refused.reason, 0});
  fragments_.forget_refused();
}

}  // namespace penstock::nat
