#include "dataplane/gateway/wire.h"

#include "dataplane/core/packet/checksum.h"

namespace penstock::gateway {

bool push_ip(Packet& packet, const IpFields& fields) {
  const std::uint16_t payload = packet.length;
  if (fields.destination.is_v4()) {
    if (!packet.push(sizeof(Ipv4Header))) return false;
    auto* header = reinterpret_cast<Ipv4Header*>(packet.data);
    header->version_ihl = 0x45;
    header->tos = fields.tos;
    header->total_length = be16::from_host(static_cast<std::uint16_t>(payload + sizeof(Ipv4Header)));
    header->identification = be16::from_host(fields.identification);
    header->flags_offset = be16::from_host(fields.dont_fragment ? kIpv4DontFragment : std::uint16_t{0});
    header->ttl = fields.hop_limit;
    header->protocol = fields.protocol;
    header->checksum = be16{};
    std::memcpy(header->source.data(), fields.source.wire().data(), 4);
    std::memcpy(header->destination.data(), fields.destination.wire().data(), 4);
    header->checksum = checksum_finish(checksum_add(0, {packet.data, sizeof(Ipv4Header)}));
    clear_flag(packet, packet_flag::ip6);
    packet.l4_offset = sizeof(Ipv4Header);
  } else {
    if (!packet.push(sizeof(Ipv6Header))) return false;
    auto* header = reinterpret_cast<Ipv6Header*>(packet.data);
    header->version_class_flow = be32::from_host(0x60000000U | std::uint32_t{fields.tos} << 20);
    header->payload_length = be16::from_host(payload);
    header->next_header = fields.protocol;
    header->hop_limit = fields.hop_limit;
    header->source = fields.source.bytes();
    header->destination = fields.destination.bytes();
    set_flag(packet, packet_flag::ip6);
    packet.l4_offset = sizeof(Ipv6Header);
  }
  packet.l4_protocol = fields.protocol;
  return true;
}

bool push_ethernet(Packet& packet, const PortConfiguration& port, const MacAddress& destination, EtherType type) {
  const std::uint16_t size =
      static_cast<std::uint16_t>(sizeof(EthernetHeader) + (port.vlan != 0 ? sizeof(VlanTag) : 0));
  if (!packet.push(size)) return false;
  auto* header = reinterpret_cast<EthernetHeader*>(packet.data);
  header->destination = destination;
  header->source = port.mac;
  if (port.vlan == 0) {
    header->type = be16::from_host(static_cast<std::uint16_t>(type));
    return true;
  }
  header->type = be16::from_host(static_cast<std::uint16_t>(EtherType::vlan));
  auto* tag = reinterpret_cast<VlanTag*>(packet.data + sizeof(EthernetHeader));
  tag->control = be16::from_host(port.vlan);
  tag->type = be16::from_host(static_cast<std::uint16_t>(type));
  return true;
}

void finish_icmp(Packet& packet, std::uint16_t offset, const IpAddress& source, const IpAddress& destination) {
  auto* icmp = reinterpret_cast<IcmpHeader*>(packet.data + offset);
  const std::uint16_t length = static_cast<std::uint16_t>(packet.length - offset);
  icmp->checksum = be16{};
  ChecksumSum sum = checksum_add(0, {packet.data + offset, length});
  if (!destination.is_v4()) sum += checksum_pseudo_header(source, destination, ip_protocol::icmpv6, length);
  icmp->checksum = checksum_finish(sum);
}

bool transport_checksum_ok(Bytes transport, std::uint8_t protocol, const IpAddress& source,
                           const IpAddress& destination) {
  ChecksumSum sum = checksum_add(0, transport);
  if (protocol != ip_protocol::icmp)
    sum += checksum_pseudo_header(source, destination, protocol, static_cast<std::uint32_t>(transport.size()));
  return checksum_fold(sum) == 0xffff;
}

IpAddress ip_source(const Packet& packet) {
  return is_ip6(packet) ? IpAddress::from_wire({packet.data + 8, 16}) : IpAddress::from_wire({packet.data + 12, 4});
}

IpAddress ip_destination(const Packet& packet) {
  return is_ip6(packet) ? IpAddress::from_wire({packet.data + 24, 16}) : IpAddress::from_wire({packet.data + 16, 4});
}

bool may_be_fragmented(const Packet& packet) {
  if (is_ip6(packet)) return false;
  const auto* header = reinterpret_cast<const Ipv4Header*>(packet.data);
  return (header->flags_offset.host() & kIpv4DontFragment) == 0;
}

void make_own(Packet& packet) {
  packet.flags = packet_flag::own;
  packet.flow = 0;
  packet.next_hop = 0;
  packet.mtu_hint = 0;
  packet.peer = kNoPeer;
  packet.user = 0;
}

bool is_multicast(const IpAddress& address) {
  return address.is_v4() ? (address.v4_value() >> 28) == 0xe : address.bytes()[0] == 0xff;
}

bool is_link_local(const IpAddress& address) {
  if (address.is_v4()) return (address.v4_value() >> 16) == 0xa9fe;
  return address.bytes()[0] == 0xfe && (address.bytes()[1] & 0xc0) == 0x80;
}

}  // namespace penstock::gateway
