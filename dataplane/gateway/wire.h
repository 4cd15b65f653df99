// Small writers of headers that several stages need: IP headers for packets that start here, checksums of whole
// transports, the Ethernet header of the way out. Pure functions; lengths in bytes.
#pragma once

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/configuration.h"

namespace penstock::gateway {

inline constexpr std::uint8_t kOwnHopLimit = 64;
inline constexpr std::uint8_t kNeighbourHopLimit = 255;  // RFC 4861 §4

struct IpFields {
  IpAddress source;
  IpAddress destination;  // of the same family
  std::uint8_t protocol = 0;
  std::uint8_t hop_limit = kOwnHopLimit;
  std::uint8_t tos = 0;              // or traffic class
  std::uint16_t identification = 0;  // IPv4
  bool dont_fragment = true;         // IPv4
};

// Opens room in front of `packet` and writes an IP header over its present bytes. False: no headroom.
bool push_ip(Packet& packet, const IpFields& fields);

// Opens room in front of `packet` and writes an Ethernet header (with the port's VLAN tag). False: no headroom.
bool push_ethernet(Packet& packet, const PortConfiguration& port, const MacAddress& destination, EtherType type);

// Writes the ICMP or ICMPv6 checksum of `packet`, whose data points at an IP header and `offset` bytes later at ICMP.
void finish_icmp(Packet& packet, std::uint16_t offset, const IpAddress& source, const IpAddress& destination);

// Whether the transport's checksum over the pseudo-header is right.
[[nodiscard]] bool transport_checksum_ok(Bytes transport, std::uint8_t protocol, const IpAddress& source,
                                         const IpAddress& destination);

[[nodiscard]] IpAddress ip_source(const Packet& packet);
[[nodiscard]] IpAddress ip_destination(const Packet& packet);

[[nodiscard]] inline bool is_ip6(const Packet& packet) {
  return (packet.flags & packet_flag::ip6) != 0;
}
[[nodiscard]] inline bool has_flag(const Packet& packet, std::uint8_t flag) {
  return (packet.flags & flag) != 0;
}
inline void set_flag(Packet& packet, std::uint8_t flag) {
  packet.flags = static_cast<std::uint8_t>(packet.flags | flag);
}
inline void clear_flag(Packet& packet, std::uint8_t flag) {
  packet.flags = static_cast<std::uint8_t>(packet.flags & ~flag);
}

// IPv4 without DF.
[[nodiscard]] bool may_be_fragmented(const Packet& packet);

// Forgets what was found out about a packet whose buffer is used again for one of ours.
void make_own(Packet& packet);

[[nodiscard]] bool is_multicast(const IpAddress& address);
[[nodiscard]] bool is_link_local(const IpAddress& address);

}  // namespace penstock::gateway
