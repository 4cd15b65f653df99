#include "dataplane/core/nat/translate.h"

#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::size_t kTcpChecksum = 16;
constexpr std::size_t kUdpChecksum = 6;
constexpr std::size_t kIcmpChecksum = 2;

bool is_icmp(std::uint8_t protocol) {
  return protocol == ip_protocol::icmp || protocol == ip_protocol::icmpv6;
}

ChecksumSum port_sum(std::uint16_t port) {
  return be16::from_host(port).raw();
}

be16 load16(const std::uint8_t* at) {
  be16 value;
  std::memcpy(&value, at, 2);
  return value;
}

void store16(std::uint8_t* at, be16 value) {
  std::memcpy(at, &value, 2);
}

// RFC 1624 eqn. 3 with the difference already folded.
be16 add_delta(be16 checksum, ChecksumSum delta) {
  return checksum_finish(ChecksumSum{static_cast<std::uint16_t>(~checksum.raw())} + delta);
}

ChecksumSum negative(ChecksumSum sum) {
  return static_cast<std::uint16_t>(~checksum_fold(sum));
}

// RFC 7915 §4.2, §5.2: queries. 0xff: has no counterpart.
std::uint8_t translated_query_type(std::uint8_t type, bool to6) {
  if (to6) return type == icmp4::echo ? icmp6::echo : type == icmp4::echo_reply ? icmp6::echo_reply : 0xff;
  return type == icmp6::echo ? icmp4::echo : type == icmp6::echo_reply ? icmp4::echo_reply : 0xff;
}

DropReason rewrite_icmp(MutableBytes transport, bool from6, bool to6, const Rewrite& rewrite,
                        std::uint16_t transport_length) {
  if (transport.size() < sizeof(IcmpHeader)) return DropReason::transport_malformed;
  std::uint8_t* at = transport.data();
  ChecksumSum delta = rewrite.delta;
  if (from6 != to6) {
    const std::uint8_t type = translated_query_type(at[0], to6);
    if (type == 0xff) return DropReason::nat_untranslatable;
    const ChecksumSum old_word = load16(at).raw();
    at[0] = type;
    delta += negative(old_word) + load16(at).raw();
    // ICMPv6 counts length and next header of the pseudo-header, ICMPv4 nothing of the kind.
    const ChecksumSum pseudo = ChecksumSum{be32::from_host(transport_length).raw()} + port_sum(ip_protocol::icmpv6);
    delta += to6 ? pseudo : negative(pseudo);
  }
  // The identifier stands for the port of the client's side, and the other is 0.
  if (rewrite.ports) store16(at + 4, be16::from_host(rewrite.to.source_port | rewrite.to.destination_port));
  store16(at + kIcmpChecksum, add_delta(load16(at + kIcmpChecksum), delta));
  return DropReason::none;
}

void write_ipv6_header(const IpView& view, const HeaderOptions& options, const IpAddress& source,
                       const IpAddress& destination, std::uint8_t* out) {
  // RFC 7915 §4.1. The traffic class is all eight bits of TOS; the flow label is zero; atomic fragments are not made
  // (RFC 8021).
  const bool fragment = view.fragment();
  Ipv6Header header{};
  header.version_class_flow = be32::from_host(6U << 28 | std::uint32_t{view.tos} << 20);
  header.payload_length =
      be16::from_host(static_cast<std::uint16_t>(view.payload_length() + (fragment ? sizeof(Ipv6FragmentHeader) : 0)));
  const std::uint8_t protocol = translated_protocol(view.protocol, true);
  header.next_header = fragment ? ip_protocol::ipv6_fragment : protocol;
  header.hop_limit = static_cast<std::uint8_t>(options.forward ? view.ttl - 1 : view.ttl);
  header.source = source.bytes();
  header.destination = destination.bytes();
  std::memcpy(out, &header, sizeof header);
  if (!fragment) return;
  Ipv6FragmentHeader piece{};
  piece.next_header = protocol;
  piece.offset_flags =
      be16::from_host(static_cast<std::uint16_t>(view.fragment_offset | (view.more_fragments ? 1 : 0)));
  piece.identification = be32::from_host(options.set_identification ? options.identification : view.identification);
  std::memcpy(out + sizeof header, &piece, sizeof piece);
}

void write_ipv4_header(const IpView& view, const HeaderOptions& options, const IpAddress& source,
                       const IpAddress& destination, std::uint8_t* out) {
  // RFC 7915 §5.1, and §5.1.1 where there is a fragment header.
  Ipv4Header header{};
  const auto total = static_cast<std::uint16_t>(view.payload_length() + sizeof(Ipv4Header));
  header.version_ihl = 0x45;
  header.tos = view.tos;
  header.total_length = be16::from_host(total);
  unsigned flags = 0;
  if (view.has_fragment_header) {
    flags = view.fragment_offset / 8U | (view.more_fragments ? kIpv4MoreFragments : 0U);
  } else if (total > kIpv6MinimumMtu - 20) {
    flags = kIpv4DontFragment;
  }
  header.flags_offset = be16::from_host(static_cast<std::uint16_t>(flags));
  header.identification = be16::from_host(options.set_identification ? options.identification
                                                                     : static_cast<std::uint16_t>(view.identification));
  header.ttl = static_cast<std::uint8_t>(options.forward ? view.ttl - 1 : view.ttl);
  header.protocol = translated_protocol(view.protocol, false);
  std::memcpy(header.source.data(), source.wire().data(), 4);
  std::memcpy(header.destination.data(), destination.wire().data(), 4);
  header.checksum = checksum_finish(checksum_add(0, {reinterpret_cast<const std::uint8_t*>(&header), sizeof header}));
  std::memcpy(out, &header, sizeof header);
}

void rewrite_ipv4_header(std::uint8_t* at, const IpView& view, const Rewrite& rewrite, const HeaderOptions& options) {
  auto* header = reinterpret_cast<Ipv4Header*>(at);
  if (options.forward) header->ttl = static_cast<std::uint8_t>(view.ttl - 1);
  if (options.set_identification) header->identification = be16::from_host(options.identification);
  std::memcpy(header->source.data(), rewrite.to.source.wire().data(), 4);
  std::memcpy(header->destination.data(), rewrite.to.destination.wire().data(), 4);
  header->checksum = be16{};
  header->checksum = checksum_finish(checksum_add(0, {at, view.header_length}));
}

void rewrite_ipv6_header(std::uint8_t* at, const IpView& view, const Rewrite& rewrite, const HeaderOptions& options) {
  auto* header = reinterpret_cast<Ipv6Header*>(at);
  if (options.forward) header->hop_limit = static_cast<std::uint8_t>(view.ttl - 1);
  header->source = rewrite.to.source.bytes();
  header->destination = rewrite.to.destination.bytes();
}

// RFC 7915 §4.5: a UDP datagram without a checksum gets one. Only possible when all of it is here.
DropReason compute_udp_checksum(MutableBytes transport, const IpView& view, const Rewrite& rewrite) {
  if (view.fragment()) return DropReason::nat_untranslatable;
  auto* udp = view_as<UdpHeader>(transport);
  const ChecksumSum pseudo =
      checksum_pseudo_header(rewrite.to.source, rewrite.to.destination, ip_protocol::udp, udp->length.host());
  if (udp->length.host() != transport.size()) return DropReason::transport_malformed;
  be16 checksum = checksum_finish(checksum_add(pseudo, transport));
  if (checksum.raw() == 0) checksum = be16::from_host(0xffff);
  udp->checksum = checksum;
  return DropReason::none;
}

}  // namespace

std::uint8_t translated_protocol(std::uint8_t protocol, bool to6) {
  if (to6 && protocol == ip_protocol::icmp) return ip_protocol::icmpv6;
  if (!to6 && protocol == ip_protocol::icmpv6) return ip_protocol::icmp;
  return protocol;
}

std::uint32_t translated_length(const IpView& view, bool to6) {
  if (view.v6() == to6) return view.total_length;
  if (!to6) return view.payload_length() + 20U;
  return view.payload_length() + (view.fragment() ? 48U : 40U);
}

std::uint16_t transport_delta(const Tuple& from, const Tuple& to, std::uint8_t protocol, bool ports) {
  const bool icmp = is_icmp(protocol);
  const auto addresses = [](const Tuple& tuple) {
    return checksum_add(checksum_add(0, tuple.source.wire()), tuple.destination.wire());
  };
  ChecksumSum delta = 0;
  // ICMPv4 has no pseudo-header.
  if (!(icmp && to.source.is_v4())) delta += addresses(to);
  if (!(icmp && from.source.is_v4())) delta += negative(addresses(from));
  if (ports) {
    delta += port_sum(to.source_port) + port_sum(to.destination_port);
    delta += negative(port_sum(from.source_port) + port_sum(from.destination_port));
  }
  return checksum_fold(delta);
}

DropReason rewrite_transport(MutableBytes transport, std::uint8_t protocol, bool from6, bool to6,
                             const Rewrite& rewrite, std::uint16_t transport_length, bool quoted) {
  std::uint8_t* at = transport.data();
  switch (protocol) {
    case ip_protocol::tcp:
    case ip_protocol::udp: {
      const bool tcp = protocol == ip_protocol::tcp;
      const std::size_t needed = quoted ? (rewrite.ports ? 4 : 0) : tcp ? sizeof(TcpHeader) : sizeof(UdpHeader);
      if (transport.size() < needed) return DropReason::transport_malformed;
      if (rewrite.ports) {
        store16(at, be16::from_host(rewrite.to.source_port));
        store16(at + 2, be16::from_host(rewrite.to.destination_port));
      }
      const std::size_t where = tcp ? kTcpChecksum : kUdpChecksum;
      if (transport.size() < where + 2) return DropReason::none;
      const be16 checksum = load16(at + where);
      if (!tcp && checksum.raw() == 0) return DropReason::none;  // none was sent (RFC 768)
      be16 adjusted = add_delta(checksum, rewrite.delta);
      if (!tcp && adjusted.raw() == 0) adjusted = be16::from_host(0xffff);
      store16(at + where, adjusted);
      return DropReason::none;
    }
    case ip_protocol::icmp:
    case ip_protocol::icmpv6:
      if ((protocol == ip_protocol::icmpv6) != from6) return DropReason::nat_untranslatable;
      return rewrite_icmp(transport, from6, to6, rewrite, transport_length);
    case ip_protocol::dccp:      // RFC 4340 §9.1 and RFC 3828 §3.1: both cover the pseudo-header and have their
    case ip_protocol::udp_lite:  // checksum in the same place
      if (transport.size() >= 8) store16(at + 6, add_delta(load16(at + 6), rewrite.delta));
      return DropReason::none;
    default:  // RFC 7915 §4.5, §5.5: others are passed on as they are
      return DropReason::none;
  }
}

std::size_t write_translated_header(const IpView& view, const IpAddress& source, const IpAddress& destination,
                                    const HeaderOptions& options, std::uint8_t* out) {
  if (destination.is_v4()) {
    write_ipv4_header(view, options, source, destination, out);
    return sizeof(Ipv4Header);
  }
  write_ipv6_header(view, options, source, destination, out);
  return sizeof(Ipv6Header) + (view.fragment() ? sizeof(Ipv6FragmentHeader) : 0);
}

DropReason translate_packet(Packet& packet, const IpView& view, const Rewrite& rewrite, const HeaderOptions& options) {
  const bool from6 = view.v6();
  const bool to6 = rewrite.to.destination.is_v6();
  if (!view.later_fragment()) {
    const MutableBytes transport = packet.bytes().subspan(view.header_length);
    const std::uint16_t length = options.transport_length != 0 ? options.transport_length : view.payload_length();
    if (from6 != to6 && view.protocol == ip_protocol::udp && transport.size() >= sizeof(UdpHeader) &&
        load16(transport.data() + kUdpChecksum).raw() == 0) {
      // Towards IPv4 a missing checksum would become legal: RFC 8200 §8.1 has it dropped, and so do we.
      if (!to6) return DropReason::udp_checksum_bad;
      if (rewrite.ports) {
        store16(transport.data(), be16::from_host(rewrite.to.source_port));
        store16(transport.data() + 2, be16::from_host(rewrite.to.destination_port));
      }
      const DropReason reason = compute_udp_checksum(transport, view, rewrite);
      if (reason != DropReason::none) return reason;
    } else {
      const DropReason reason = rewrite_transport(transport, view.protocol, from6, to6, rewrite, length, false);
      if (reason != DropReason::none) return reason;
    }
  }
  if (from6 == to6) {
    if (to6) {
      rewrite_ipv6_header(packet.data, view, rewrite, options);
    } else {
      rewrite_ipv4_header(packet.data, view, rewrite, options);
    }
    return DropReason::none;
  }
  std::uint8_t header[sizeof(Ipv6Header) + sizeof(Ipv6FragmentHeader)];
  const std::size_t length = write_translated_header(view, rewrite.to.source, rewrite.to.destination, options, header);
  packet.pull(view.header_length);
  if (!packet.push(static_cast<std::uint16_t>(length))) return DropReason::no_headroom;
  std::memcpy(packet.data, header, length);
  packet.l4_offset = static_cast<std::uint16_t>(length);
  if (!view.later_fragment()) packet.l4_protocol = translated_protocol(view.protocol, to6);
  packet.flags = static_cast<std::uint8_t>(to6 ? packet.flags | packet_flag::ip6 : packet.flags & ~packet_flag::ip6);
  return DropReason::none;
}

}  // namespace penstock::nat
