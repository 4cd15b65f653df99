#include "dataplane/gateway/neighbour_messages.h"

#include <algorithm>

#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

constexpr std::uint8_t kSourceLinkLayer = 1;
constexpr std::uint8_t kTargetLinkLayer = 2;
constexpr std::uint8_t kFlagSolicited = 0x40;
constexpr std::uint8_t kFlagOverride = 0x20;
constexpr std::uint8_t kFlagRouter = 0x80;

struct NeighbourMessage {  // both solicitation and advertisement
  IcmpHeader icmp;         // advertisement: the flags are the first byte of field1
  std::array<std::uint8_t, 16> target;
};
static_assert(sizeof(NeighbourMessage) == 24);

struct LinkLayerOption {
  std::uint8_t type;
  std::uint8_t length;  // in units of 8 bytes
  MacAddress mac;
};
static_assert(sizeof(LinkLayerOption) == 8);

constexpr IpAddress kAllNodes = IpAddress::v6({0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});

bool is_group(const MacAddress& mac) {
  return (mac[0] & 1) != 0;
}

// Empties the packet and opens `size` bytes. Every buffer that ever held an IPv6 header and a neighbour message has
// them; a shorter one has tailroom (kMinTailroom).
bool reset(Packet& packet, std::uint16_t size) {
  packet.truncate(0);
  return packet.append(size);
}

bool write_message(Packet& packet, std::uint8_t type, std::uint8_t flags, const IpAddress& target, std::uint8_t option,
                   const MacAddress& mac, const IpAddress& source, const IpAddress& destination) {
  if (!reset(packet, sizeof(NeighbourMessage) + sizeof(LinkLayerOption))) return false;
  auto* message = reinterpret_cast<NeighbourMessage*>(packet.data);
  std::memset(packet.data, 0, packet.length);
  message->icmp.type = type;
  packet.data[4] = flags;
  message->target = target.bytes();
  auto* link_layer = reinterpret_cast<LinkLayerOption*>(packet.data + sizeof(NeighbourMessage));
  link_layer->type = option;
  link_layer->length = 1;
  link_layer->mac = mac;
  finish_icmp(packet, 0, source, destination);
  make_own(packet);
  return push_ip(packet, {source, destination, ip_protocol::icmpv6, kNeighbourHopLimit});
}

}  // namespace

std::optional<ArpMessage> parse_arp(Bytes bytes) {
  constexpr std::uint16_t kEthernet = 1, kRequest = 1, kReply = 2;
  const auto* arp = view_as<ArpPacket>(bytes);
  if (arp == nullptr || arp->hardware_type.host() != kEthernet || arp->hardware_length != 6 ||
      arp->protocol_length != 4 || arp->protocol_type.host() != static_cast<std::uint16_t>(EtherType::ipv4))
    return std::nullopt;
  const std::uint16_t operation = arp->operation.host();
  if ((operation != kRequest && operation != kReply) || is_group(arp->sender_mac)) return std::nullopt;
  ArpMessage out;
  out.request = operation == kRequest;
  out.sender = IpAddress::v4(arp->sender_ip);
  out.sender_mac = arp->sender_mac;
  out.target = IpAddress::v4(arp->target_ip);
  out.target_mac = arp->target_mac;
  if (!out.sender.is_unspecified() && source_is_invalid(out.sender)) return std::nullopt;
  return out;
}

void write_arp(Packet& packet, const ArpMessage& message) {
  // A buffer that a frame was received in, or an empty one, always has 28 bytes.
  if (!reset(packet, sizeof(ArpPacket))) return;
  auto* arp = reinterpret_cast<ArpPacket*>(packet.data);
  arp->hardware_type = be16::from_host(1);
  arp->protocol_type = be16::from_host(static_cast<std::uint16_t>(EtherType::ipv4));
  arp->hardware_length = 6;
  arp->protocol_length = 4;
  arp->operation = be16::from_host(message.request ? 1 : 2);
  arp->sender_mac = message.sender_mac;
  std::copy_n(message.sender.wire().begin(), 4, arp->sender_ip.begin());
  arp->target_mac = message.target_mac;
  std::copy_n(message.target.wire().begin(), 4, arp->target_ip.begin());
  make_own(packet);
}

std::optional<NeighbourDiscovery> parse_neighbour_discovery(const Packet& packet) {
  const auto* ip = reinterpret_cast<const Ipv6Header*>(packet.data);
  if (!is_ip6(packet) || has_flag(packet, packet_flag::fragment) || packet.l4_protocol != ip_protocol::icmpv6 ||
      ip->hop_limit != kNeighbourHopLimit)
    return std::nullopt;
  const Bytes bytes = Bytes{packet.bytes()}.subspan(packet.l4_offset);
  const auto* message = view_as<NeighbourMessage>(bytes);
  if (message == nullptr || message->icmp.code != 0) return std::nullopt;
  NeighbourDiscovery out;
  out.source = ip_source(packet);
  out.destination = ip_destination(packet);
  out.target = IpAddress::v6(message->target);
  if (message->icmp.type == icmp6::neighbour_advertisement)
    out.advertisement = true;
  else if (message->icmp.type != icmp6::neighbour_solicitation)
    return std::nullopt;
  if (is_multicast(out.source) || is_multicast(out.target) || out.target.is_v4() || out.target.is_unspecified())
    return std::nullopt;
  if (!transport_checksum_ok(bytes, ip_protocol::icmpv6, out.source, out.destination)) return std::nullopt;
  if (out.advertisement) {
    const std::uint8_t flags = bytes[4];
    out.solicited = (flags & kFlagSolicited) != 0;
    out.override_flag = (flags & kFlagOverride) != 0;
    out.router = (flags & kFlagRouter) != 0;
    if (out.solicited && is_multicast(out.destination)) return std::nullopt;
    if (out.source.is_unspecified()) return std::nullopt;
  }
  const std::uint8_t wanted = out.advertisement ? kTargetLinkLayer : kSourceLinkLayer;
  for (std::size_t at = sizeof(NeighbourMessage); at < bytes.size();) {
    if (at + 2 > bytes.size()) return std::nullopt;
    const std::size_t length = std::size_t{bytes[at + 1]} * 8;
    if (length == 0 || at + length > bytes.size()) return std::nullopt;
    if (bytes[at] == wanted && length == sizeof(LinkLayerOption)) {
      const auto* option = reinterpret_cast<const LinkLayerOption*>(bytes.data() + at);
      if (is_group(option->mac)) return std::nullopt;
      out.link_layer = option->mac;
    }
    at += length;
  }
  // RFC 4861 §7.1.1: from :: only to a solicited-node group and without the option.
  if (out.source.is_unspecified() && (out.link_layer || out.destination != solicited_node_of(out.target)))
    return std::nullopt;
  return out;
}

bool write_advertisement(Packet& packet, const IpAddress& target, const IpAddress& to, const MacAddress& mac,
                         bool solicited) {
  const IpAddress destination = to.is_unspecified() ? kAllNodes : to;
  const auto flags = static_cast<std::uint8_t>(kFlagRouter | kFlagOverride | (solicited ? kFlagSolicited : 0));
  return write_message(packet, icmp6::neighbour_advertisement, flags, target, kTargetLinkLayer, mac, target,
                       destination);
}

bool write_solicitation(Packet& packet, const IpAddress& source, const MacAddress& mac, const IpAddress& target,
                        bool unicast) {
  return write_message(packet, icmp6::neighbour_solicitation, 0, target, kSourceLinkLayer, mac, source,
                       unicast ? target : solicited_node_of(target));
}

MacAddress multicast_mac_of(const IpAddress& group) {
  const auto& bytes = group.bytes();
  return {0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]};
}

}  // namespace penstock::gateway
