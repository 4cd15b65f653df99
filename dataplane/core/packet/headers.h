// Header structs as they lie on the wire, and the numbers that go with them. All have alignment 1.
// Sources: RFC 791, 792, 826, 4443, 4861, 8200, 9293, 768; IEEE 802.3/802.1Q.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/bytes.h"

namespace penstock {

using MacAddress = std::array<std::uint8_t, 6>;

enum class EtherType : std::uint16_t { ipv4 = 0x0800, arp = 0x0806, vlan = 0x8100, qinq = 0x88a8, ipv6 = 0x86dd };

namespace ip_protocol {
inline constexpr std::uint8_t hop_by_hop = 0;
inline constexpr std::uint8_t icmp = 1;
inline constexpr std::uint8_t igmp = 2;
inline constexpr std::uint8_t tcp = 6;
inline constexpr std::uint8_t udp = 17;
inline constexpr std::uint8_t ipv6_routing = 43;
inline constexpr std::uint8_t ipv6_fragment = 44;
inline constexpr std::uint8_t gre = 47;
inline constexpr std::uint8_t esp = 50;
inline constexpr std::uint8_t ah = 51;
inline constexpr std::uint8_t icmpv6 = 58;
inline constexpr std::uint8_t ipv6_none = 59;
inline constexpr std::uint8_t ipv6_destination = 60;
inline constexpr std::uint8_t dccp = 33;
inline constexpr std::uint8_t pim = 103;
inline constexpr std::uint8_t sctp = 132;
inline constexpr std::uint8_t mobility = 135;
inline constexpr std::uint8_t udp_lite = 136;
inline constexpr std::uint8_t experimental_253 = 253;  // RFC 3692; in-tunnel control
}  // namespace ip_protocol

struct EthernetHeader {
  MacAddress destination;
  MacAddress source;
  be16 type;
};
static_assert(sizeof(EthernetHeader) == 14 && alignof(EthernetHeader) == 1);

struct VlanTag {
  be16 control;  // priority, DEI, 12-bit VLAN id
  be16 type;
};
static_assert(sizeof(VlanTag) == 4);

struct ArpPacket {  // Ethernet/IPv4, RFC 826
  be16 hardware_type;
  be16 protocol_type;
  std::uint8_t hardware_length;
  std::uint8_t protocol_length;
  be16 operation;  // 1 request, 2 reply
  MacAddress sender_mac;
  std::array<std::uint8_t, 4> sender_ip;
  MacAddress target_mac;
  std::array<std::uint8_t, 4> target_ip;
};
static_assert(sizeof(ArpPacket) == 28 && alignof(ArpPacket) == 1);

struct Ipv4Header {
  std::uint8_t version_ihl;
  std::uint8_t tos;
  be16 total_length;
  be16 identification;
  be16 flags_offset;  // DF 0x4000, MF 0x2000, offset in 8-byte units 0x1fff
  std::uint8_t ttl;
  std::uint8_t protocol;
  be16 checksum;
  std::array<std::uint8_t, 4> source;
  std::array<std::uint8_t, 4> destination;

  [[nodiscard]] unsigned header_length() const { return (version_ihl & 0x0fU) * 4U; }
};
static_assert(sizeof(Ipv4Header) == 20 && alignof(Ipv4Header) == 1);

inline constexpr std::uint16_t kIpv4DontFragment = 0x4000;
inline constexpr std::uint16_t kIpv4MoreFragments = 0x2000;
inline constexpr std::uint16_t kIpv4OffsetMask = 0x1fff;

struct Ipv6Header {
  be32 version_class_flow;
  be16 payload_length;
  std::uint8_t next_header;
  std::uint8_t hop_limit;
  std::array<std::uint8_t, 16> source;
  std::array<std::uint8_t, 16> destination;

  [[nodiscard]] std::uint8_t traffic_class() const {
    return static_cast<std::uint8_t>(version_class_flow.host() >> 20);
  }
};
static_assert(sizeof(Ipv6Header) == 40 && alignof(Ipv6Header) == 1);

struct Ipv6ExtensionHeader {  // hop-by-hop, routing, destination options
  std::uint8_t next_header;
  std::uint8_t length;  // in 8-byte units, not counting the first
};
static_assert(sizeof(Ipv6ExtensionHeader) == 2);

struct Ipv6FragmentHeader {
  std::uint8_t next_header;
  std::uint8_t reserved;
  be16 offset_flags;  // offset in 8-byte units << 3 | more
  be32 identification;
};
static_assert(sizeof(Ipv6FragmentHeader) == 8);

struct UdpHeader {
  be16 source_port;
  be16 destination_port;
  be16 length;
  be16 checksum;
};
static_assert(sizeof(UdpHeader) == 8);

struct TcpHeader {
  be16 source_port;
  be16 destination_port;
  be32 sequence;
  be32 acknowledgement;
  std::uint8_t offset_reserved;  // header length in 4-byte units in the upper nibble
  std::uint8_t flags;
  be16 window;
  be16 checksum;
  be16 urgent;

  [[nodiscard]] unsigned header_length() const { return (offset_reserved >> 4) * 4U; }
};
static_assert(sizeof(TcpHeader) == 20);

namespace tcp_flag {
inline constexpr std::uint8_t fin = 0x01, syn = 0x02, rst = 0x04, psh = 0x08, ack = 0x10;
}

struct IcmpHeader {  // both families; the last four bytes depend on type
  std::uint8_t type;
  std::uint8_t code;
  be16 checksum;
  be16 field1;  // echo: identifier; v4 frag needed: unused
  be16 field2;  // echo: sequence; v4 frag needed: next-hop MTU
};
static_assert(sizeof(IcmpHeader) == 8);

namespace icmp4 {
inline constexpr std::uint8_t echo_reply = 0, unreachable = 3, source_quench = 4, redirect = 5, echo = 8,
                              time_exceeded = 11, parameter_problem = 12, timestamp = 13, timestamp_reply = 14;
}
namespace icmp6 {
inline constexpr std::uint8_t unreachable = 1, packet_too_big = 2, time_exceeded = 3, parameter_problem = 4,
                              echo = 128, echo_reply = 129, router_solicitation = 133, router_advertisement = 134,
                              neighbour_solicitation = 135, neighbour_advertisement = 136, redirect = 137;
}

}  // namespace penstock
