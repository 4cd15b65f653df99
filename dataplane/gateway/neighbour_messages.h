// ARP (RFC 826, Ethernet and IPv4) and neighbour discovery (RFC 4861 §4.3, §4.4) messages: strict parsers and writers.
// Pure functions. "Malformed" is nullopt.
#pragma once

#include <optional>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

struct ArpMessage {
  bool request = false;  // else reply
  IpAddress sender;
  MacAddress sender_mac{};
  IpAddress target;
  MacAddress target_mac{};  // zero in a request
};

// `bytes` from the ARP header on; padding behind it is ignored.
[[nodiscard]] std::optional<ArpMessage> parse_arp(Bytes bytes);
// Replaces everything from packet.data on.
void write_arp(Packet& packet, const ArpMessage& message);

struct NeighbourDiscovery {
  bool advertisement = false;  // else solicitation
  bool solicited = false;
  bool override_flag = false;
  bool router = false;
  IpAddress source;  // of the packet; unspecified: duplicate address detection
  IpAddress destination;
  IpAddress target;
  std::optional<MacAddress> link_layer;  // source (solicitation) or target (advertisement) link-layer address option
};

// `packet`: data at the IPv6 header, parsed by parse_ip. Checks everything of RFC 4861 §7.1.1 and §7.1.2.
[[nodiscard]] std::optional<NeighbourDiscovery> parse_neighbour_discovery(const Packet& packet);

// Replaces the packet by an advertisement of `target` as `mac`. Data at the IPv6 header. False: no room.
bool write_advertisement(Packet& packet, const IpAddress& target, const IpAddress& to, const MacAddress& mac,
                         bool solicited);
// Replaces the packet by a solicitation for `target`, to its solicited-node group, or to itself when `unicast`.
bool write_solicitation(Packet& packet, const IpAddress& source, const MacAddress& mac, const IpAddress& target,
                        bool unicast);

// 33:33 and the last four bytes (RFC 2464 §7).
[[nodiscard]] MacAddress multicast_mac_of(const IpAddress& group);

}  // namespace penstock::gateway
