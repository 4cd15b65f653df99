#include "dataplane/core/packet/ip_parse.h"

#include "dataplane/core/packet/checksum.h"

namespace penstock {
namespace {

constexpr unsigned kMaxExtensionHeaders = 8;

constexpr std::uint8_t kOptionEnd = 0;
constexpr std::uint8_t kOptionNoOperation = 1;
constexpr std::uint8_t kOptionLooseSourceRoute = 131;
constexpr std::uint8_t kOptionStrictSourceRoute = 137;

IpParse refused() {
  return {DropReason::ip_malformed, {}};
}

bool parse_ipv4_options(Bytes options, IpView& view) {
  std::size_t at = 0;
  while (at < options.size()) {
    const std::uint8_t type = options[at];
    if (type == kOptionEnd) return true;
    if (type == kOptionNoOperation) {
      ++at;
      continue;
    }
    if (at + 2 > options.size()) return false;
    const std::size_t length = options[at + 1];
    if (length < 2 || at + length > options.size()) return false;
    if (type == kOptionLooseSourceRoute || type == kOptionStrictSourceRoute) {
      if (length < 3) return false;
      // RFC 791: the route is used up when the pointer is beyond the option's length.
      if (options[at + 2] <= length) view.source_route = static_cast<std::uint16_t>(sizeof(Ipv4Header) + at);
    }
    at += length;
  }
  return true;
}

IpParse parse_ipv4(Bytes bytes, ParseMode mode) {
  const auto* header = view_as<Ipv4Header>(bytes);
  if (header == nullptr) return refused();
  IpParse out;
  IpView& view = out.view;
  const unsigned header_length = header->header_length();
  const std::uint16_t total = header->total_length.host();
  if (header_length < sizeof(Ipv4Header) || header_length > bytes.size() || total < header_length) return refused();
  if (mode != ParseMode::quoted && total > bytes.size()) return refused();
  view.version = 4;
  view.protocol = header->protocol;
  view.ttl = header->ttl;
  view.tos = header->tos;
  view.header_length = static_cast<std::uint16_t>(header_length);
  view.total_length = total;
  const std::uint16_t flags = header->flags_offset.host();
  view.fragment_offset = static_cast<std::uint16_t>((flags & kIpv4OffsetMask) * 8);
  view.more_fragments = (flags & kIpv4MoreFragments) != 0;
  view.dont_fragment = (flags & kIpv4DontFragment) != 0;
  view.identification = header->identification.host();
  if (header_length > sizeof(Ipv4Header) &&
      !parse_ipv4_options(bytes.subspan(sizeof(Ipv4Header), header_length - sizeof(Ipv4Header)), view))
    return refused();
  return out;
}

// ::ffff:0:0/96 never stands on a wire; here it would be taken for an IPv4 address.
bool v4_mapped(const std::array<std::uint8_t, 16>& address) {
  return IpAddress::v6(address).is_v4();
}

IpParse parse_ipv6(Bytes bytes, ParseMode mode) {
  const auto* header = view_as<Ipv6Header>(bytes);
  if (header == nullptr) return refused();
  const std::uint32_t total = sizeof(Ipv6Header) + std::uint32_t{header->payload_length.host()};
  if (total > 0xffff || (mode != ParseMode::quoted && total > bytes.size())) return refused();
  if (v4_mapped(header->source) || v4_mapped(header->destination)) return refused();
  const std::size_t limit = total < bytes.size() ? total : bytes.size();
  IpParse out;
  IpView& view = out.view;
  view.version = 6;
  view.ttl = header->hop_limit;
  view.tos = header->traffic_class();
  view.total_length = static_cast<std::uint16_t>(total);
  std::uint8_t next = header->next_header;
  std::size_t at = sizeof(Ipv6Header);
  for (unsigned count = 0;; ++count) {
    const bool extension = next == ip_protocol::hop_by_hop || next == ip_protocol::ipv6_routing ||
                           next == ip_protocol::ipv6_destination || next == ip_protocol::ipv6_fragment;
    // A later fragment continues in the middle of something: what its header names is not here.
    if (view.has_fragment_header && (extension || next == ip_protocol::ah)) view.extension_behind_fragment = true;
    if (!extension || view.fragment_offset != 0) break;
    if (next == ip_protocol::hop_by_hop && view.has_fragment_header) break;
    if (count == kMaxExtensionHeaders || at + 8 > limit) return refused();
    if (next == ip_protocol::hop_by_hop && count != 0) return refused();
    if (next == ip_protocol::ipv6_fragment) {
      if (view.has_fragment_header) return refused();
      const auto* fragment = view_as<Ipv6FragmentHeader>(bytes.subspan(at));
      const std::uint16_t offset_flags = fragment->offset_flags.host();
      view.has_fragment_header = true;
      view.fragment_header = static_cast<std::uint16_t>(at);
      view.fragment_offset = static_cast<std::uint16_t>(offset_flags & 0xfff8U);
      view.more_fragments = (offset_flags & 1U) != 0;
      view.identification = fragment->identification.host();
      next = fragment->next_header;
      at += sizeof(Ipv6FragmentHeader);
      continue;
    }
    const auto* extension_header = view_as<Ipv6ExtensionHeader>(bytes.subspan(at));
    const std::size_t length = (std::size_t{extension_header->length} + 1) * 8;
    if (at + length > limit) return refused();
    if (next == ip_protocol::ipv6_routing && bytes[at + 3] != 0 && view.routing_header == 0)
      view.routing_header = static_cast<std::uint16_t>(at);
    next = extension_header->next_header;
    at += length;
  }
  view.protocol = next;
  view.header_length = static_cast<std::uint16_t>(at);
  return out;
}

bool fragment_possible(const IpView& view) {
  if (!view.fragment()) return true;
  const std::uint32_t length = view.payload_length();
  if (view.more_fragments && length % 8 != 0) return false;
  // The reassembled payload must still fit a length field (RFC 791, "ping of death").
  return length != 0 && view.fragment_offset + length <= 0xffffU - sizeof(Ipv4Header);
}

}  // namespace

IpParse parse_ip(Bytes bytes, ParseMode mode) {
  if (bytes.empty()) return refused();
  const unsigned version = bytes[0] >> 4;
  IpParse out = version == 4 ? parse_ipv4(bytes, mode) : version == 6 ? parse_ipv6(bytes, mode) : refused();
  if (out.reason == DropReason::none && mode == ParseMode::whole && !fragment_possible(out.view)) return refused();
  return out;
}

IpParse parse_ip(Packet& packet) {
  IpParse out = parse_ip(Bytes{packet.data, packet.length});
  if (out.reason != DropReason::none) return out;
  if (packet.length > out.view.total_length) packet.truncate(out.view.total_length);
  packet.l4_offset = out.view.header_length;
  packet.l4_protocol = out.view.later_fragment() ? std::uint8_t{0xff} : out.view.protocol;
  constexpr unsigned kParsed = packet_flag::ip6 | packet_flag::fragment | packet_flag::later_fragment;
  unsigned flags = packet.flags & ~kParsed;
  if (out.view.v6()) flags |= packet_flag::ip6;
  if (out.view.fragment()) flags |= packet_flag::fragment;
  if (out.view.later_fragment()) flags |= packet_flag::later_fragment;
  packet.flags = static_cast<std::uint8_t>(flags);
  return out;
}

bool ipv4_header_checksum_ok(Bytes bytes) {
  const std::size_t length = (bytes[0] & 0x0fU) * 4U;
  return checksum_fold(checksum_add(0, bytes.first(length))) == 0xffff;
}

IpAddress ip_source(Bytes bytes, const IpView& view) {
  return view.v6() ? IpAddress::from_wire(bytes.subspan(8, 16)) : IpAddress::from_wire(bytes.subspan(12, 4));
}

IpAddress ip_destination(Bytes bytes, const IpView& view) {
  return view.v6() ? IpAddress::from_wire(bytes.subspan(24, 16)) : IpAddress::from_wire(bytes.subspan(16, 4));
}

bool source_is_invalid(const IpAddress& source) {
  if (source.is_v4()) {
    const std::uint32_t value = source.v4_value();
    const std::uint32_t first = value >> 24;
    return first == 0 || first == 127 || first >= 240 || (first >= 224 && first < 240);
  }
  static constexpr std::array<std::uint8_t, 15> kZero{};
  if (source.bytes()[0] == 0xff) return true;
  return std::memcmp(source.bytes().data(), kZero.data(), kZero.size()) == 0 && source.bytes()[15] <= 1;
}

}  // namespace penstock
