#include "dataplane/core/nat/icmp_translate.h"

#include <algorithm>

#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::size_t kMinimumOriginal = 128;  // RFC 4884 §3: what stands before an extension structure

// RFC 4884 §4: where the length attribute lies and what it counts. unit 0: the type has none.
struct LengthAttribute {
  std::size_t offset = 0;
  std::size_t unit = 0;
};

LengthAttribute length_attribute(std::uint8_t type, bool v6) {
  if (v6) {
    if (type == icmp6::unreachable || type == icmp6::time_exceeded) return {4, 8};
    return {};
  }
  if (type == icmp4::unreachable || type == icmp4::time_exceeded || type == icmp4::parameter_problem) return {5, 4};
  return {};
}

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

ChecksumSum icmp_pseudo_header(const IpAddress& source, const IpAddress& destination, std::size_t length) {
  return destination.is_v4()
             ? 0
             : checksum_pseudo_header(source, destination, ip_protocol::icmpv6, static_cast<std::uint32_t>(length));
}

void finish_checksum(MutableBytes message, const IpAddress& source, const IpAddress& destination) {
  message[2] = message[3] = 0;
  const be16 checksum = checksum_finish(checksum_add(icmp_pseudo_header(source, destination, message.size()), message));
  std::memcpy(message.data() + 2, &checksum, 2);
}

bool checksum_right(Bytes packet, const IpView& view) {
  const Bytes message = packet.subspan(view.header_length);
  const ChecksumSum sum = icmp_pseudo_header(ip_source(packet, view), ip_destination(packet, view), message.size());
  return checksum_fold(checksum_add(sum, message)) == 0xffff;
}

be16 load16(const std::uint8_t* at) {
  be16 value;
  std::memcpy(&value, at, 2);
  return value;
}

// Whether a quoted packet ends in the last `unit` bytes of `original`.
bool ends_within(Bytes original, std::size_t unit) {
  const IpParse parsed = parse_ip(original, ParseMode::quoted);
  return parsed.reason == DropReason::none && parsed.view.total_length <= original.size() &&
         original.size() - parsed.view.total_length < unit;
}

// RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c): what an error may be long without being cut on its way. Extensions lie at its
// end and are lost (RFC 4884 §5: without a length there are none).
void shorten(Packet& packet, const IpView& view) {
  packet.truncate(view.v6() ? kIpv6MinimumMtu : kIpv4MinimumMtu);
  const be16 length =
      be16::from_host(static_cast<std::uint16_t>(packet.length - (view.v6() ? sizeof(Ipv6Header) : 0)));
  std::memcpy(packet.data + (view.v6() ? 4 : 2), &length, 2);
  std::uint8_t* message = packet.data + view.header_length;
  const LengthAttribute attribute = length_attribute(message[0], view.v6());
  if (attribute.unit != 0) message[attribute.offset] = 0;
}

DropReason within_family(Packet& packet, const IpView& view, const Quoted& quoted, const ErrorRewrite& rewrite) {
  const bool v6 = view.v6();
  const std::size_t at = static_cast<std::size_t>(quoted.bytes.data() - packet.data);
  const MutableBytes inner = packet.bytes().subspan(at, quoted.bytes.size());
  const DropReason reason = rewrite_transport(inner.subspan(quoted.view.header_length), quoted.view.protocol, v6, v6,
                                              rewrite.quoted, quoted.view.payload_length(), true);
  if (reason != DropReason::none) return reason;
  const auto put_addresses = [v6](std::uint8_t* header, const IpAddress& source, const IpAddress& destination) {
    std::memcpy(header + (v6 ? 8 : 12), source.wire().data(), v6 ? 16 : 4);
    std::memcpy(header + (v6 ? 24 : 16), destination.wire().data(), v6 ? 16 : 4);
  };
  const auto finish_ipv4 = [](std::uint8_t* header, std::size_t length) {
    header[10] = header[11] = 0;
    const be16 checksum = checksum_finish(checksum_add(0, {header, length}));
    std::memcpy(header + 10, &checksum, 2);
  };
  put_addresses(inner.data(), rewrite.quoted.to.source, rewrite.quoted.to.destination);
  put_addresses(packet.data, rewrite.source, rewrite.destination);
  if (!v6) finish_ipv4(inner.data(), quoted.view.header_length);
  if (rewrite.limit != 0 && packet.length > rewrite.limit) shorten(packet, view);
  if (v6) {
    packet.data[7] = static_cast<std::uint8_t>(view.ttl - 1);
  } else {
    packet.data[8] = static_cast<std::uint8_t>(view.ttl - 1);
    finish_ipv4(packet.data, view.header_length);
  }
  finish_checksum(packet.bytes().subspan(view.header_length), rewrite.source, rewrite.destination);
  return DropReason::none;
}

}  // namespace

Quoted parse_quoted(Bytes packet, const IpView& view) {
  Quoted out;
  const auto refuse = [&out](DropReason reason) {
    out.reason = reason;
    return out;
  };
  const bool v6 = view.v6();
  const Bytes message = packet.subspan(view.header_length);
  if (message.size() < sizeof(IcmpHeader)) return refuse(DropReason::transport_malformed);
  if (!is_icmp_error(message[0], v6)) return refuse(DropReason::icmp_type_unsupported);
  if (!checksum_right(packet, view)) return refuse(DropReason::transport_malformed);

  Bytes original = message.subspan(sizeof(IcmpHeader));
  const LengthAttribute attribute = length_attribute(message[0], v6);
  if (attribute.unit != 0 && message[attribute.offset] != 0) {
    const std::size_t length = message[attribute.offset] * attribute.unit;
    // A length beyond the message, or below 128, is no extension structure that RFC 4884 §5 knows; senders that forget
    // to pad are understood where the quoted packet ends just there.
    if (length < original.size() &&
        (length >= kMinimumOriginal || ends_within(original.first(length), attribute.unit))) {
      out.extensions = original.subspan(length);
      original = original.first(length);
    }
  }
  const IpParse parsed = parse_ip(original, ParseMode::quoted);
  if (parsed.reason != DropReason::none || parsed.view.v6() != v6) return refuse(DropReason::transport_malformed);
  out.view = parsed.view;
  out.bytes = original.first(std::min<std::size_t>(original.size(), parsed.view.total_length));
  out.tuple.source = ip_source(original, parsed.view);
  out.tuple.destination = ip_destination(original, parsed.view);
  out.protocol = parsed.view.protocol;
  if (parsed.view.later_fragment()) return refuse(DropReason::icmp_error_unmatched);
  const Bytes transport = out.bytes.subspan(std::min<std::size_t>(out.bytes.size(), parsed.view.header_length));
  switch (parsed.view.protocol) {
    case ip_protocol::tcp:
    case ip_protocol::udp:
      // trap: nat-8: eight bytes are promised (RFC 792), four are needed
      if (transport.size() < 4) return refuse(DropReason::icmp_error_unmatched);
      out.tuple.source_port = load16(transport.data()).host();
      out.tuple.destination_port = load16(transport.data() + 2).host();
      return out;
    case ip_protocol::icmp:
    case ip_protocol::icmpv6: {
      if ((parsed.view.protocol == ip_protocol::icmpv6) != v6 || transport.size() < sizeof(IcmpHeader))
        return refuse(DropReason::transport_malformed);
      if (is_icmp_error(transport[0], v6)) return refuse(DropReason::icmp_error_about_error);
      const std::uint8_t asks = v6 ? icmp6::echo : icmp4::echo;
      const std::uint8_t answers = v6 ? icmp6::echo_reply : icmp4::echo_reply;
      if (transport[0] != asks && transport[0] != answers) return refuse(DropReason::icmp_error_unmatched);
      out.protocol = ip_protocol::icmp;
      const std::uint16_t identifier = load16(transport.data() + 4).host();
      (transport[0] == asks ? out.tuple.source_port : out.tuple.destination_port) = identifier;
      return out;
    }
    default:
      return refuse(DropReason::icmp_error_unmatched);
  }
}

DropReason translate_icmp_error(Packet& packet, const IpView& view, const Quoted& quoted, const ErrorRewrite& rewrite) {
  const bool from6 = view.v6();
  const bool to6 = rewrite.destination.is_v6();
  if (from6 == to6) return within_family(packet, view, quoted, rewrite);

  const std::uint8_t* message = packet.data + view.header_length;
  be32 rest;
  std::memcpy(&rest, message + 4, 4);
  IcmpErrorFields from{message[0], message[1], rest.host()};
  if (!from6 && from.type == icmp4::parameter_problem) from.rest &= 0xff000000U;
  const auto to = to6 ? icmp_error_4to6(from, rewrite.mtu) : icmp_error_6to4(from, rewrite.mtu);
  if (!to) return DropReason::nat_untranslatable;

  // The quoted packet as its sender sent it. It is not being forwarded: its TTL stays.
  constexpr std::size_t kHeaderRoom = sizeof(Ipv6Header) + sizeof(Ipv6FragmentHeader);
  std::array<std::uint8_t, kIpv6MinimumMtu + kHeaderRoom> original{};
  HeaderOptions quoted_options;
  quoted_options.forward = false;
  std::size_t length = write_translated_header(quoted.view, rewrite.quoted.to.source, rewrite.quoted.to.destination,
                                               quoted_options, original.data());
  const Bytes transport = quoted.bytes.subspan(quoted.view.header_length);
  const std::size_t kept = std::min<std::size_t>(transport.size(), kIpv6MinimumMtu);
  std::memcpy(original.data() + length, transport.data(), kept);
  if (!quoted.view.later_fragment()) {
    const DropReason reason = rewrite_transport(MutableBytes{original}.subspan(length, kept), quoted.view.protocol,
                                                from6, to6, rewrite.quoted, quoted.view.payload_length(), true);
    if (reason != DropReason::none) return reason;
  }
  length += kept;

  // RFC 7915 §4.3, §5.3 and RFC 4884 §4.5, §4.6: pad to whole units, give up what does not fit, extensions last.
  const std::size_t header = to6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  const std::size_t room = (to6 ? kIpv6MinimumMtu : kIpv4MinimumMtu) - header - sizeof(IcmpHeader);
  const LengthAttribute attribute = length_attribute(to->type, to6);
  Bytes extensions = attribute.unit == 0 ? Bytes{} : quoted.extensions;
  if (!extensions.empty() && extensions.size() + kMinimumOriginal > room) extensions = {};
  if (extensions.empty()) {
    length = std::min(length, room);
  } else {
    const std::size_t most = (room - extensions.size()) / attribute.unit * attribute.unit;
    const std::size_t padded = std::min(std::max(round_up(length, attribute.unit), kMinimumOriginal), most);
    if (padded < length) length = padded;
    std::memset(original.data() + length, 0, padded - length);
    length = padded;
  }

  std::array<std::uint8_t, kIpv6MinimumMtu> out{};
  std::uint8_t* at = out.data() + header;
  at[0] = to->type;
  at[1] = to->code;
  const be32 wire_rest = be32::from_host(to->rest);
  std::memcpy(at + 4, &wire_rest, 4);
  if (!extensions.empty()) at[attribute.offset] = static_cast<std::uint8_t>(length / attribute.unit);
  std::memcpy(at + sizeof(IcmpHeader), original.data(), length);
  if (!extensions.empty()) std::memcpy(at + sizeof(IcmpHeader) + length, extensions.data(), extensions.size());
  const std::size_t icmp_length = sizeof(IcmpHeader) + length + extensions.size();
  finish_checksum({at, icmp_length}, rewrite.source, rewrite.destination);

  IpView outer = view;
  outer.has_fragment_header = false;
  outer.header_length = static_cast<std::uint16_t>(header);
  outer.total_length = static_cast<std::uint16_t>(header + icmp_length);
  HeaderOptions options;
  options.identification = rewrite.identification;
  options.set_identification = true;
  write_translated_header(outer, rewrite.source, rewrite.destination, options, out.data());

  const std::size_t total = header + icmp_length;
  if (total > packet.length) {
    const std::size_t more = total - packet.length;
    const std::size_t behind = std::min<std::size_t>(more, packet.tailroom);
    if (more - behind > packet.headroom) return DropReason::no_headroom;
    packet.append(static_cast<std::uint16_t>(behind));
    packet.push(static_cast<std::uint16_t>(more - behind));
  } else {
    packet.truncate(static_cast<std::uint16_t>(total));
  }
  std::memcpy(packet.data, out.data(), total);
  packet.l4_offset = static_cast<std::uint16_t>(header);
  packet.l4_protocol = to6 ? ip_protocol::icmpv6 : ip_protocol::icmp;
  packet.flags = static_cast<std::uint8_t>(to6 ? packet.flags | packet_flag::ip6 : packet.flags & ~packet_flag::ip6);
  return DropReason::none;
}

}  // namespace penstock::nat
