#include "dataplane/core/packet/ip_parse.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <vector>

namespace penstock {
namespace {

using Octets = std::vector<std::uint8_t>;

Octets ipv4(std::size_t payload, std::uint16_t flags = 0, std::uint8_t protocol = 17) {
  Octets out(20 + payload);
  out[0] = 0x45;
  out[2] = static_cast<std::uint8_t>(out.size() >> 8);
  out[3] = static_cast<std::uint8_t>(out.size());
  out[6] = static_cast<std::uint8_t>(flags >> 8);
  out[7] = static_cast<std::uint8_t>(flags);
  out[8] = 64;
  out[9] = protocol;
  return out;
}

Octets ipv6(const Octets& payload, std::uint8_t next) {
  Octets out(40 + payload.size());
  std::copy(payload.begin(), payload.end(), out.begin() + 40);
  out[0] = 0x6b;  // traffic class 0xb...
  out[1] = 0x9f;  // ...9
  out[4] = static_cast<std::uint8_t>(payload.size() >> 8);
  out[5] = static_cast<std::uint8_t>(payload.size());
  out[6] = next;
  out[7] = 7;
  out[8] = 0x20;
  out[24] = 0x20;
  return out;
}

TEST(ParseIp, Ipv4Fields) {
  const IpParse parsed = parse_ip(ipv4(16, 0x6000 | 3));
  ASSERT_EQ(parsed.reason, DropReason::none);
  EXPECT_EQ(parsed.view.version, 4);
  EXPECT_EQ(parsed.view.header_length, 20);
  EXPECT_EQ(parsed.view.total_length, 36);
  EXPECT_EQ(parsed.view.fragment_offset, 24);
  EXPECT_TRUE(parsed.view.more_fragments);
  EXPECT_TRUE(parsed.view.dont_fragment);
  EXPECT_TRUE(parsed.view.later_fragment());
}

TEST(ParseIp, Ipv6WithAChainOfHeaders) {
  // hop-by-hop, destination options (16 bytes), routing with two segments left, fragment 8 more, udp
  Octets payload = {60, 0, 1, 4, 0, 0, 0, 0, 43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    44, 0, 0, 2, 0, 0, 0, 0, 17, 0, 0, 1,  0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8};
  const IpParse parsed = parse_ip(ipv6(payload, 0));
  ASSERT_EQ(parsed.reason, DropReason::none);
  EXPECT_EQ(parsed.view.version, 6);
  EXPECT_EQ(parsed.view.tos, 0xb9);
  EXPECT_EQ(parsed.view.ttl, 7);
  EXPECT_EQ(parsed.view.protocol, 17);
  EXPECT_EQ(parsed.view.header_length, 80);
  EXPECT_EQ(parsed.view.fragment_header, 72);
  EXPECT_EQ(parsed.view.identification, 9u);
  EXPECT_EQ(parsed.view.routing_header, 64);
  EXPECT_TRUE(parsed.view.more_fragments);
}

TEST(ParseIp, SourceRouteIsExpiredWhenThePointerIsBeyondIt) {
  for (const auto& [pointer, expired] : {std::pair{4, false}, std::pair{7, false}, std::pair{8, true}}) {
    Octets bytes = ipv4(8);
    const Octets option = {0x83, 7, static_cast<std::uint8_t>(pointer), 1, 2, 3, 4, 0};
    bytes.insert(bytes.begin() + 20, option.begin(), option.end());
    bytes[0] = 0x47;
    bytes[3] = static_cast<std::uint8_t>(bytes.size());
    const IpParse parsed = parse_ip(bytes);
    ASSERT_EQ(parsed.reason, DropReason::none);
    EXPECT_EQ(parsed.view.source_route == 0, expired) << pointer;
  }
}

TEST(ParseIp, RefusesWhatContradictsItself) {
  Octets bytes = ipv4(8);
  bytes[0] = 0x44;  // header of 16 bytes
  EXPECT_EQ(parse_ip(bytes).reason, DropReason::ip_malformed);
  bytes = ipv4(8);
  bytes[0] = 0x4f;  // header of 60
  EXPECT_EQ(parse_ip(bytes).reason, DropReason::ip_malformed);
  bytes = ipv4(8);
  bytes[3] = 19;
  EXPECT_EQ(parse_ip(bytes).reason, DropReason::ip_malformed);
  bytes = ipv4(8);
  bytes[3] = 29;
  EXPECT_EQ(parse_ip(bytes).reason, DropReason::ip_malformed);
  EXPECT_EQ(parse_ip(bytes, ParseMode::quoted).reason, DropReason::none);
  EXPECT_EQ(parse_ip(ipv4(15, 0x2000)).reason, DropReason::ip_malformed);  // not a multiple of 8 and more
  EXPECT_EQ(parse_ip(ipv4(16, 0x1fff)).reason, DropReason::ip_malformed);  // ends beyond 65535
  EXPECT_EQ(parse_ip(ipv4(0, 0x0001)).reason, DropReason::ip_malformed);   // an empty piece
  EXPECT_EQ(parse_ip(ipv6({17, 5, 0, 0, 0, 0, 0, 0}, 60)).reason, DropReason::ip_malformed);
  EXPECT_EQ(parse_ip(Octets{}).reason, DropReason::ip_malformed);
}

TEST(ParseIp, CutsPaddingAndFillsThePacket) {
  Octets bytes = ipv4(8, 0x2000);
  bytes.resize(bytes.size() + 18);
  Packet packet;
  packet.data = bytes.data();
  packet.length = static_cast<std::uint16_t>(bytes.size());
  EXPECT_EQ(parse_ip(packet).reason, DropReason::none);
  EXPECT_EQ(packet.length, 28);
  EXPECT_EQ(packet.tailroom, 18);
  EXPECT_EQ(packet.l4_offset, 20);
  EXPECT_EQ(packet.l4_protocol, 17);
  EXPECT_EQ(packet.flags, packet_flag::fragment);
}

TEST(ParseIp, NeverReadsBeyondTheBytes) {
  EXPECT_TRUE(rc::check([](Octets bytes, std::uint8_t first, std::uint8_t next) {
    if (!bytes.empty()) bytes[0] = static_cast<std::uint8_t>((first & 1 ? 0x40 : 0x60) | (first >> 4));
    if (bytes.size() > 6) bytes[6] = std::array<std::uint8_t, 5>{0, 43, 44, 60, 17}[next % 5];
    for (const ParseMode mode : {ParseMode::whole, ParseMode::quoted}) {
      const IpParse parsed = parse_ip(bytes, mode);
      if (parsed.reason != DropReason::none) continue;
      RC_ASSERT(parsed.view.header_length <= bytes.size());
      RC_ASSERT(parsed.view.header_length <= parsed.view.total_length);
      if (mode == ParseMode::whole) RC_ASSERT(parsed.view.total_length <= bytes.size());
    }
  }));
}

TEST(SourceIsInvalid, Table) {
  for (const char* bad :
       {"0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::1", "ff02::1"})
    EXPECT_TRUE(source_is_invalid(IpAddress::parse(bad).value())) << bad;
  for (const char* good : {"10.0.0.1", "100.64.0.2", "203.0.113.1", "fe80::1", "2001:db8::1", "::2"})
    EXPECT_FALSE(source_is_invalid(IpAddress::parse(good).value())) << good;
}

}  // namespace
}  // namespace penstock
