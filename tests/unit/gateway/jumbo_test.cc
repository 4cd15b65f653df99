// Jumbo frames: inner packets up to 8900 bytes through the whole gateway, in both directions, whole and with the right bytes.
#include <gtest/gtest.h>

#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

constexpr std::uint16_t kPortMtu = 9000;
constexpr std::uint16_t kInnerMtu = 8900;  // beside IPv6, UDP, WireGuard: 80 bytes

GatewayOptions jumbo() {
  GatewayOptions options;
  options.description.inner_mtu = kInnerMtu;
  for (PortConfiguration& port : options.description.ports) port.mtu = kPortMtu;
  return options;
}

Octets pattern(std::size_t size) {
  Octets out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::uint8_t>(i * 31 + i / 251);
  return out;
}

Octets payload_of(const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  return {packet.begin() + parse.view.header_length + 8, packet.begin() + parse.view.total_length};
}

// Every length around the ends of blocks and of the largest packet, over both kinds of tunnel and all translations.
TEST(Jumbo, EveryTranslationCarriesWholeLargePackets) {
  for (const bool outer6 : {false, true}) {
    World world(jumbo(), outer6);
    world.client.connect();
    std::uint16_t sequence = 0;
    for (const IpAddress& to : {kServer4, kServer6, world.names.only_v4_as_v4, world.names.only_v4_as_v6,
                                world.names.only_v6_as_v4, world.names.only_v6_as_v6}) {
      const bool inside6 = to.is_v6();
      const IpAddress& from = inside6 ? world.client.tunnel_v6 : world.client.tunnel_v4;
      // From IPv4 to IPv6 a packet grows by 20 bytes on the LAN, from IPv6 to IPv4 its answer by as many in the tunnel.
      const std::size_t largest = kInnerMtu - (inside6 ? 48U : 28U);
      for (const std::size_t size : {std::size_t{4000}, largest - 17, largest - 16, largest - 1, largest}) {
        SCOPED_TRACE(to.to_string() + " " + std::to_string(size) + (outer6 ? " over IPv6" : " over IPv4"));
        world.server.received.clear();
        world.client.received.clear();
        const Octets payload = pattern(size);
        world.client.send(echo_request(from, to, 77, ++sequence, payload));
        world.gateway.run(50ms);
        ASSERT_EQ(world.server.received.size(), 1U) << world.gateway.describe_drops();
        EXPECT_EQ(payload_of(world.server.received[0]), payload);
        ASSERT_EQ(world.client.received.size(), 1U) << world.gateway.describe_drops();
        EXPECT_EQ(payload_of(world.client.received[0]), payload);
      }
    }
    EXPECT_EQ(world.gateway.all_drops(),
              world.gateway.drops(DropReason::local_consumed) + world.gateway.drops(DropReason::wg_keepalive))
        << world.gateway.describe_drops();
    for (const auto& port : world.gateway.sent)
      for (const Octets& frame : port) EXPECT_LE(frame.size(), kPortMtu + 14U);
  }
}

// One byte too many is answered with the size that fits, in the sender's family.
TEST(Jumbo, WhatIsLargerIsAnsweredWithTheSizeThatFits) {
  World world(jumbo());
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v6, world.names.only_v4_as_v6, 5, 1, pattern(100)));
  world.gateway.run(50ms);
  ASSERT_EQ(world.server.received.size(), 1U);
  const Octets request = world.server.received[0];
  world.server.received.clear();
  world.client.received.clear();
  // An answer of 8881 bytes would be 8901 in the tunnel.
  const IpParse parse = parse_ip(request);
  const auto reply = [&](std::size_t size) {
    Octets message = {0, 0, 0, 0, 0, 5, 0, 1};
    message = message + pattern(size - 28);
    const be16 sum = checksum_finish(checksum_add(0, message));
    std::memcpy(message.data() + 2, &sum, 2);
    return ip_packet(kServer4, ip_source(request, parse.view), ip_protocol::icmp, message);
  };
  // The flow's identifier is the gateway's choice.
  Octets whole = reply(8880), large = reply(8881);
  for (Octets* packet : {&whole, &large}) {
    std::memcpy(packet->data() + 24, request.data() + parse.view.header_length + 4, 2);
    std::memset(packet->data() + 22, 0, 2);
    const be16 sum = checksum_finish(checksum_add(0, Bytes{*packet}.subspan(20)));
    std::memcpy(packet->data() + 22, &sum, 2);
  }
  world.gateway.receive_from(world.server, kLan, whole);
  world.gateway.run(50ms);
  ASSERT_EQ(world.client.received.size(), 1U) << world.gateway.describe_drops();
  EXPECT_EQ(world.client.received[0].size(), kInnerMtu);
  world.gateway.receive_from(world.server, kLan, large);
  world.gateway.run(50ms);
  EXPECT_EQ(world.client.received.size(), 1U);
  ASSERT_EQ(world.server.received.size(), 1U) << world.gateway.describe_drops();
  const Octets& error = world.server.received[0];
  const std::size_t header = parse_ip(error).view.header_length;
  EXPECT_EQ(error[header], icmp4::unreachable);
  EXPECT_EQ(error[header + 1], 4);
  EXPECT_EQ(error[header + 6] << 8 | error[header + 7], 8880);
}

}  // namespace
}  // namespace penstock::gateway::test
