#include "dataplane/core/nat/icmp_error.h"

#include <algorithm>
#include <cstddef>

#include "dataplane/core/nat/icmp_types.h"
#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint8_t kHopLimit = 64;
constexpr std::uint8_t kInternetworkControl = 6 << 5;  // TOS of ICMPv4 errors, RFC 1812 §4.3.2.5

struct Message {
  std::uint8_t type;
  std::uint8_t code;
  std::uint32_t rest;
};

// Where the number of the transport protocol stands: in the fixed header, or in the last extension header.
std::uint32_t next_header_field(Bytes packet, const IpView& view) {
  std::size_t field = offsetof(Ipv6Header, next_header);
  std::size_t at = sizeof(Ipv6Header);
  while (at < view.header_length) {
    const std::uint8_t kind = packet[field];
    field = at;
    at += kind == ip_protocol::ipv6_fragment ? 8U : (packet[at + 1] + 1U) * 8U;
  }
  return static_cast<std::uint32_t>(field);
}

Message message_of(IcmpProblem problem, Bytes offending, const IpView& view, std::uint32_t value) {
  const bool v6 = view.v6();
  switch (problem) {
    case IcmpProblem::none:
    case IcmpProblem::no_route:
      break;
    case IcmpProblem::address_unreachable:
      return v6 ? Message{icmp6::unreachable, 3, 0} : Message{icmp4::unreachable, 1, 0};
    case IcmpProblem::protocol_unreachable:
      return v6 ? Message{icmp6::parameter_problem, 1, next_header_field(offending, view)}
                : Message{icmp4::unreachable, 2, 0};
    case IcmpProblem::port_unreachable:
      return v6 ? Message{icmp6::unreachable, 4, 0} : Message{icmp4::unreachable, 3, 0};
    case IcmpProblem::too_big:
      return v6 ? Message{icmp6::packet_too_big, 0, std::max<std::uint32_t>(value, kIpv6MinimumMtu)}
                : Message{icmp4::unreachable, 4, value & 0xffffU};
    case IcmpProblem::prohibited:
      return v6 ? Message{icmp6::unreachable, 1, 0} : Message{icmp4::unreachable, 13, 0};
    case IcmpProblem::source_route_failed:
      return v6 ? Message{icmp6::unreachable, 0, 0} : Message{icmp4::unreachable, 5, 0};
    case IcmpProblem::time_exceeded:
      return v6 ? Message{icmp6::time_exceeded, 0, 0} : Message{icmp4::time_exceeded, 0, 0};
    case IcmpProblem::routing_header:
      return v6 ? Message{icmp6::parameter_problem, 0, value} : Message{icmp4::unreachable, 5, 0};
  }
  return v6 ? Message{icmp6::unreachable, 0, 0} : Message{icmp4::unreachable, 0, 0};
}

bool multicast(const IpAddress& address) {
  return address.is_v4() ? address.v4_value() >> 28 >= 0xe : address.bytes()[0] == 0xff;
}

// Writes an IP header without options in front of `payload_length` bytes.
std::size_t write_header(std::uint8_t* at, const IpAddress& source, const IpAddress& destination, std::uint8_t protocol,
                         std::size_t payload_length, std::uint8_t tos = 0) {
  if (source.is_v4()) {
    Ipv4Header header{};
    header.version_ihl = 0x45;
    header.tos = tos;
    header.total_length = be16::from_host(static_cast<std::uint16_t>(sizeof header + payload_length));
    header.flags_offset = be16::from_host(kIpv4DontFragment);  // with it the identification may be 0 (RFC 6864 §4.1)
    header.ttl = kHopLimit;
    header.protocol = protocol;
    std::memcpy(header.source.data(), source.wire().data(), 4);
    std::memcpy(header.destination.data(), destination.wire().data(), 4);
    header.checksum = checksum_finish(checksum_add(0, {reinterpret_cast<const std::uint8_t*>(&header), sizeof header}));
    std::memcpy(at, &header, sizeof header);
    return sizeof header;
  }
  Ipv6Header header{};
  header.version_class_flow = be32::from_host(6U << 28);
  header.payload_length = be16::from_host(static_cast<std::uint16_t>(payload_length));
  header.next_header = protocol;
  header.hop_limit = kHopLimit;
  header.source = source.bytes();
  header.destination = destination.bytes();
  std::memcpy(at, &header, sizeof header);
  return sizeof header;
}

void describe(Packet& packet, bool v6, std::uint8_t protocol, std::size_t header_length) {
  packet.flags = static_cast<std::uint8_t>(packet_flag::own | (v6 ? packet_flag::ip6 : 0));
  packet.l4_protocol = protocol;
  packet.l4_offset = static_cast<std::uint16_t>(header_length);
}

}  // namespace

IcmpProblem problem_of(DropReason reason, bool v6) {
  switch (reason) {
    case DropReason::policy_no_resource:
    case DropReason::policy_filtered:
    case DropReason::policy_expired:
    case DropReason::policy_revoked:
    case DropReason::policy_forbidden_destination:
    case DropReason::nat_hairpin_refused:
    case DropReason::flow_peer_limit:
    case DropReason::flow_table_full:
      return IcmpProblem::prohibited;
    case DropReason::nat_ports_exhausted:  // RFC 6146 §3.5.1.1, §3.5.2.3; RFC 5508 REQ-8
      return v6 ? IcmpProblem::address_unreachable : IcmpProblem::prohibited;
    case DropReason::name_unknown:
    case DropReason::name_no_address:
    case DropReason::name_wait_timeout:
    case DropReason::name_wait_full:
      return IcmpProblem::address_unreachable;
    case DropReason::nat_no_source:
      return IcmpProblem::no_route;
    case DropReason::nat_protocol_unsupported:  // RFC 6146 §3.4
      return v6 ? IcmpProblem::port_unreachable : IcmpProblem::protocol_unreachable;
    case DropReason::hop_limit_exceeded:
      return IcmpProblem::time_exceeded;
    default:
      return IcmpProblem::none;
  }
}

bool may_be_answered(Bytes packet, const IpView& view) {
  if (view.later_fragment()) return false;
  const IpAddress source = ip_source(packet, view);
  if (source_is_invalid(source) || multicast(ip_destination(packet, view))) return false;
  if (view.protocol != ip_protocol::icmp && view.protocol != ip_protocol::icmpv6) return true;
  if (packet.size() <= view.header_length) return false;
  const std::uint8_t type = packet[view.header_length];
  if (view.v6()) return type >= 128;
  return type == icmp4::echo || type == icmp4::echo_reply || type == icmp4::timestamp || type == icmp4::timestamp_reply;
}

Packet* build_icmp_error(PacketSource& packets, Bytes offending, const IpView& view, const IpAddress& from,
                         IcmpProblem problem, std::uint32_t value) {
  Packet* packet = packets.allocate();
  if (packet == nullptr) return nullptr;
  const bool v6 = view.v6();
  const std::size_t header = v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  const std::size_t room = (v6 ? kIpv6MinimumMtu : kIpv4MinimumMtu) - header - sizeof(IcmpHeader);
  const std::size_t quoted = std::min(offending.size(), room);
  const std::size_t icmp_length = sizeof(IcmpHeader) + quoted;
  packet->append(static_cast<std::uint16_t>(std::min<std::size_t>(header + icmp_length, packet->tailroom)));
  std::uint8_t* at = packet->data;
  const IpAddress to = ip_source(offending, view);
  const std::uint8_t protocol = v6 ? ip_protocol::icmpv6 : ip_protocol::icmp;
  write_header(at, from, to, protocol, icmp_length, v6 ? std::uint8_t{0} : kInternetworkControl);
  const Message message = message_of(problem, offending, view, value);
  std::uint8_t* icmp = at + header;
  icmp[0] = message.type;
  icmp[1] = message.code;
  icmp[2] = icmp[3] = 0;
  const be32 rest = be32::from_host(message.rest);
  std::memcpy(icmp + 4, &rest, 4);
  std::memcpy(icmp + sizeof(IcmpHeader), offending.data(), quoted);
  const ChecksumSum pseudo =
      v6 ? checksum_pseudo_header(from, to, protocol, static_cast<std::uint32_t>(icmp_length)) : ChecksumSum{0};
  const be16 checksum = checksum_finish(checksum_add(pseudo, {icmp, icmp_length}));
  std::memcpy(icmp + 2, &checksum, 2);
  describe(*packet, v6, protocol, header);
  return packet;
}

Packet* build_tcp_reset(PacketSource& packets, Bytes segment, const IpView& view) {
  const auto* tcp = view_as<TcpHeader>(segment.subspan(view.header_length));
  if (tcp == nullptr || (tcp->flags & tcp_flag::rst) != 0 || view.fragment()) return nullptr;
  const unsigned tcp_length = tcp->header_length();
  if (tcp_length < sizeof(TcpHeader) || tcp_length > view.payload_length()) return nullptr;
  Packet* packet = packets.allocate();
  if (packet == nullptr) return nullptr;
  const bool v6 = view.v6();
  const std::size_t header = v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  packet->append(static_cast<std::uint16_t>(header + sizeof(TcpHeader)));
  const IpAddress from = ip_destination(segment, view);
  const IpAddress to = ip_source(segment, view);
  write_header(packet->data, from, to, ip_protocol::tcp, sizeof(TcpHeader));
  TcpHeader reset{};
  reset.source_port = tcp->destination_port;
  reset.destination_port = tcp->source_port;
  reset.offset_reserved = 5U << 4;
  if ((tcp->flags & tcp_flag::ack) != 0) {
    reset.sequence = tcp->acknowledgement;
    reset.flags = tcp_flag::rst;
  } else {
    std::uint32_t length = view.payload_length() - tcp_length;
    length += (tcp->flags & tcp_flag::syn) != 0 ? 1 : 0;
    length += (tcp->flags & tcp_flag::fin) != 0 ? 1 : 0;
    reset.acknowledgement = be32::from_host(tcp->sequence.host() + length);
    reset.flags = tcp_flag::rst | tcp_flag::ack;
  }
  const ChecksumSum pseudo = checksum_pseudo_header(from, to, ip_protocol::tcp, sizeof reset);
  reset.checksum = checksum_finish(checksum_add(pseudo, {reinterpret_cast<const std::uint8_t*>(&reset), sizeof reset}));
  std::memcpy(packet->data + header, &reset, sizeof reset);
  describe(*packet, v6, ip_protocol::tcp, header);
  return packet;
}

}  // namespace penstock::nat
