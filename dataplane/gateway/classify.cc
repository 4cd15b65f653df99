#include <cstring>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/packet/words.h"
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
  const std::uint64_t us = words::load48(port.mac.data());
  if (!group && words::load48(packet.data) != us) return DropReason::frame_not_for_us;
  if (words::load48(packet.data + 6) == us) return DropReason::ip_source_invalid;  // ours, come back
  type = ethernet->type.host();
  packet.pull(sizeof(EthernetHeader));
  if (type != static_cast<std::uint16_t>(EtherType::vlan))
    return port.vlan == 0 ? DropReason::none : DropReason::vlan_unexpected;
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

using words::load;

// What nearly every packet is, without the general parser: IPv4 without options or fragment, IPv6 without extension
// headers, carrying TCP or UDP. True: the packet is described and cut to its length as parse_ip would, an IPv4 header's
// checksum is right. False: nothing has been touched.
bool describe_plain(Packet& packet, AddressWords& source, AddressWords& destination) {
  if (packet.length < sizeof(Ipv6Header)) return false;
  const std::uint8_t* at = packet.data;
  std::uint32_t total = 0;
  std::uint16_t l4_offset = sizeof(Ipv4Header);
  std::uint8_t protocol = 0, flag = 0;
  if (at[0] == 0x45) {
    constexpr std::uint16_t kFragment = kIpv4MoreFragments | kIpv4OffsetMask;
    total = load<be16>(at + 2).host();
    if ((load<be16>(at + 6).host() & kFragment) != 0 || total < sizeof(Ipv4Header)) return false;
    if (words::fold(words::header_sum(at)) != 0xffff) return false;
    protocol = at[9];
    source = AddressWords::of_v4(at + 12);
    destination = AddressWords::of_v4(at + 16);
  } else if (at[0] >> 4 == 6) {
    total = sizeof(Ipv6Header) + std::uint32_t{load<be16>(at + 4).host()};
    protocol = at[6];
    l4_offset = sizeof(Ipv6Header);
    flag = packet_flag::ip6;
    source = AddressWords::of_v6(at + 8);
    destination = AddressWords::of_v6(at + 24);
    if (source.is_v4() || destination.is_v4()) return false;
  } else {
    return false;
  }
  if (total > packet.length || (protocol != ip_protocol::udp && protocol != ip_protocol::tcp)) return false;
  packet.l4_protocol = protocol;
  packet.l4_offset = l4_offset;
  constexpr unsigned kParsed = packet_flag::ip6 | packet_flag::fragment | packet_flag::later_fragment;
  packet.flags = static_cast<std::uint8_t>((packet.flags & ~kParsed) | flag);
  packet.truncate(static_cast<std::uint16_t>(total));
  return true;
}

// source_is_invalid() of ip_parse.h, on words.
bool invalid_source(const AddressWords& source) {
  if (source.is_v4()) {
    const std::uint8_t first = source.first_v4();
    return first == 0 || first == 127 || first >= 224;
  }
  constexpr std::uint64_t kOne = std::uint64_t{1} << 56;  // ::1
  return (source.high & 0xff) == 0xff || (source.high == 0 && (source.low == 0 || source.low == kOne));
}

// Sorts one burst; a burst is full of packets to the same address of ours.
class Sorter {
 public:
  Sorter(Worker& worker, Classified& out) : worker_(worker), configuration_(*worker.configuration), out_(out) {}

  void ip(Packet* packet) {
    AddressWords source, destination;
    if (!describe_plain(*packet, source, destination)) {
      const IpParse parse = parse_ip(*packet);
      if (parse.reason != DropReason::none) return worker_.drop(packet, parse.reason);
      if (!parse.view.v6() && !ipv4_header_checksum_ok(packet->bytes()))
        return worker_.drop(packet, DropReason::ip_checksum_bad);
      if (is_neighbour_discovery(*packet))
        return out_.neighbour.add(packet);  // also from ::, when an address is being checked
      source = AddressWords::of(ip_source(*packet));
      destination = AddressWords::of(ip_destination(*packet));
    }
    if (!source_seen_ || !(source == last_source_)) {
      if (invalid_source(source) || configuration_.ours.find(source) != nullptr)
        return worker_.drop(packet, DropReason::ip_source_invalid);
      last_source_ = source;
      source_seen_ = true;
    }
    if (ours_ == nullptr || !(destination == last_)) {
      ours_ = configuration_.ours.find(destination);
      last_ = destination;
    }
    if (ours_ != nullptr) return ours(packet, ours_->uses);
    const IpAddress to = destination.address();
    if (configuration_.is_routed_client(to)) return out_.lan.add(packet);
    const bool group = is_multicast(to) || (to.is_v4() && to.v4_value() == 0xffffffff);
    to_kernel(worker_, packet, group ? DropReason::multicast_not_forwarded : DropReason::not_for_us);
  }

 private:
  void ours(Packet* packet, std::uint8_t uses) {
    const bool source_nat = (uses & address_use::source_nat) != 0;
    if ((uses & address_use::tunnel) != 0) {
      if (is_to_tunnel_port(*packet, configuration_.tunnel.listen_port)) {
        if (has_flag(*packet, packet_flag::fragment)) return worker_.drop(packet, DropReason::outer_fragment);
        prefetch_write(packet->data + 128);  // the message's end
        return out_.tunnel.add(packet);
      }
      // The rest of a datagram whose first fragment was refused looks like this too.
      if (has_flag(*packet, packet_flag::later_fragment) && !source_nat)
        return to_kernel(worker_, packet, DropReason::outer_fragment);
    }
    if (source_nat && !is_echo_request(*packet)) {
      prefetch_write(packet->data - 64);  // where the outer headers will stand
      return out_.lan.add(packet);
    }
    out_.local.add(packet);
  }

  Worker& worker_;
  const Configuration& configuration_;
  Classified& out_;
  AddressWords last_source_;  // that was found valid
  bool source_seen_ = false;
  AddressWords last_;
  const AddressSet::Entry* ours_ = nullptr;
};

}  // namespace

void classify(Worker& worker, PacketBurst& frames, Classified& out) {
  worker.enter(Stage::classify, frames.size());
  Sorter sorter(worker, out);
  for (Packet* packet : frames) {
    std::uint16_t type = 0;
    const DropReason reason = strip_ethernet(*packet, worker.configuration->ports[packet->port], type);
    if (reason != DropReason::none) {
      worker.drop(packet, reason);
    } else if (type == static_cast<std::uint16_t>(EtherType::ipv4) ||
               type == static_cast<std::uint16_t>(EtherType::ipv6)) {
      sorter.ip(packet);
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
