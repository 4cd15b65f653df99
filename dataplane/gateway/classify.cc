#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

// Strips Ethernet and the port's VLAN tag. `type`: what follows.
DropReason strip_ethernet(Packet& packet, const PortConfiguration& port, std::uint16_t& type) {
  const auto* ethernet = view_as<EthernetHeader>(Bytes{packet.bytes()});
  if (ethernet == nullptr) return DropReason::frame_too_short;
  const bool group = (ethernet->destination[0] & 1) != 0;
  if (!group && ethernet->destination != port.mac) return DropReason::frame_not_for_us;
  if (ethernet->source == port.mac) return DropReason::ip_source_invalid;  // ours, come back
  type = ethernet->type.host();
  packet.pull(sizeof(EthernetHeader));
  packet.vlan = 0;
  if (type == static_cast<std::uint16_t>(EtherType::vlan)) {
    const auto* tag = view_as<VlanTag>(Bytes{packet.bytes()});
    if (tag == nullptr) return DropReason::frame_too_short;
    packet.vlan = tag->control.host() & 0x0fff;  // 0: priority only
    type = tag->type.host();
    packet.pull(sizeof(VlanTag));
  }
  if (packet.vlan != port.vlan) return DropReason::vlan_unexpected;
  return DropReason::none;
}

bool is_neighbour_discovery(const Packet& packet) {
  if (packet.l4_protocol != ip_protocol::icmpv6 || packet.length <= packet.l4_offset) return false;
  const std::uint8_t type = packet.data[packet.l4_offset];
  return type >= icmp6::router_solicitation && type <= icmp6::redirect;
}

bool is_echo_request(const Packet& packet) {
  if (packet.length <= packet.l4_offset) return false;
  const std::uint8_t type = packet.data[packet.l4_offset];
  return (packet.l4_protocol == ip_protocol::icmp && type == icmp4::echo) ||
         (packet.l4_protocol == ip_protocol::icmpv6 && type == icmp6::echo);
}

bool is_to_tunnel_port(const Packet& packet, std::uint16_t listen_port) {
  if (packet.l4_protocol != ip_protocol::udp || packet.length < packet.l4_offset + sizeof(UdpHeader)) return false;
  return reinterpret_cast<const UdpHeader*>(packet.data + packet.l4_offset)->destination_port.host() == listen_port;
}

void classify_ip(Worker& worker, Packet* packet, Classified& out) {
  const Configuration& configuration = *worker.configuration;
  const IpParse parse = parse_ip(*packet);
  if (parse.reason != DropReason::none) return worker.drop(packet, parse.reason);
  if (!parse.view.v6() && !ipv4_header_checksum_ok(packet->bytes()))
    return worker.drop(packet, DropReason::ip_checksum_bad);
  if (is_neighbour_discovery(*packet))
    return out.neighbour.add(packet);  // also from ::, when an address is being checked

  const IpAddress source = ip_source(*packet);
  if (source_is_invalid(source) || configuration.ours.find(source) != nullptr)
    return worker.drop(packet, DropReason::ip_source_invalid);
  const IpAddress destination = ip_destination(*packet);
  const AddressSet::Entry* ours = configuration.ours.find(destination);
  if (ours == nullptr) {
    if (configuration.is_routed_client(destination)) return out.lan.add(packet);
    const bool group = is_multicast(destination) || (destination.is_v4() && destination.v4_value() == 0xffffffff);
    return to_kernel(worker, packet, group ? DropReason::multicast_not_forwarded : DropReason::not_for_us);
  }

  const bool fragment = has_flag(*packet, packet_flag::fragment);
  const bool source_nat = (ours->uses & address_use::source_nat) != 0;
  if ((ours->uses & address_use::tunnel) != 0) {
    if (is_to_tunnel_port(*packet, configuration.tunnel.listen_port)) {
      if (fragment) return worker.drop(packet, DropReason::outer_fragment);
      return out.tunnel.add(packet);
    }
    // The rest of a datagram whose first fragment was refused looks like this too.
    if (has_flag(*packet, packet_flag::later_fragment) && !source_nat)
      return to_kernel(worker, packet, DropReason::outer_fragment);
  }
  if (source_nat && !is_echo_request(*packet)) return out.lan.add(packet);
  out.local.add(packet);
}

}  // namespace

void classify(Worker& worker, PacketBurst& frames, Classified& out) {
  constexpr std::size_t kAhead = 4;
  worker.enter(Stage::classify, frames.size());
  for (std::size_t i = 0; i < frames.size() && i < kAhead; ++i) __builtin_prefetch(frames[i]->data);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (i + kAhead < frames.size()) __builtin_prefetch(frames[i + kAhead]->data);
    Packet* packet = frames[i];
    std::uint16_t type = 0;
    const DropReason reason = strip_ethernet(*packet, worker.configuration->ports[packet->port], type);
    if (reason != DropReason::none) {
      worker.drop(packet, reason);
    } else if (type == static_cast<std::uint16_t>(EtherType::ipv4) ||
               type == static_cast<std::uint16_t>(EtherType::ipv6)) {
      classify_ip(worker, packet, out);
    } else if (type == static_cast<std::uint16_t>(EtherType::arp)) {
      clear_flag(*packet, packet_flag::ip6);
      out.neighbour.add(packet);
    } else {
      worker.drop(packet, DropReason::ether_type_unknown);
    }
  }
  frames.clear();
}

}  // namespace penstock::gateway
