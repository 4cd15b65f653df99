// The LAN's side of the gateway: VLAN tags (crafted frames, since test machines have no 802.1Q devices) and clients
// that appear there as they are (`source_nat: off`).
#include <gtest/gtest.h>

#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

constexpr std::uint16_t kVlan = 12;

GatewayOptions tagged() {
  GatewayOptions options;
  options.description.ports[1].vlan = kVlan;
  return options;
}

GatewayOptions routed() {
  GatewayOptions options;
  options.description.nat.routed = {*Prefix::parse("100.64.0.0/11"), *Prefix::parse("fd00:2021:1111::/107")};
  return options;
}

// What the server was sent, answered as from its port.
Octets answer_to(const Octets& request, const Octets& payload, const IpOptions& options = {}) {
  const IpParse parse = parse_ip(request);
  const auto* udp = view_as<UdpHeader>(Bytes{request}.subspan(parse.view.header_length));
  return udp_packet({ip_destination(request, parse.view), udp->destination_port.host()},
                    {ip_source(request, parse.view), udp->source_port.host()}, payload, options);
}

Octets ask(World& world, const IpAddress& to) {
  world.server.received.clear();
  const IpAddress& from = to.is_v4() ? world.client.tunnel_v4 : world.client.tunnel_v6;
  world.client.send(udp_packet({from, 4000}, {to, 53}, text("?")));
  world.gateway.run(50ms);
  EXPECT_EQ(world.server.received.size(), 1U);
  world.client.received.clear();
  return world.server.received.empty() ? Octets{} : world.server.received[0];
}

TEST(VlanSide, EveryTranslationThroughTags) {
  World world(tagged());
  world.client.connect();
  for (const IpAddress& to : {kServer4, kServer6, world.names.only_v4_as_v6, world.names.only_v6_as_v4}) {
    const Octets request = ask(world, to);
    ASSERT_FALSE(request.empty()) << to.to_string();
    world.gateway.receive_from(world.server, kLan, answer_to(request, text("!")));
    ASSERT_EQ(world.client.received.size(), 1U) << to.to_string();
    EXPECT_EQ(ip_source(world.client.received[0], parse_ip(world.client.received[0]).view), to);
  }
  for (const Octets& sent : world.gateway.sent[kLan]) {
    ASSERT_GE(sent.size(), 18U);
    EXPECT_EQ(sent[12] << 8 | sent[13], 0x8100);
    EXPECT_EQ((sent[14] << 8 | sent[15]) & 0x0fff, kVlan);
  }
}

// IEEE 802.1Q: three bits of priority and the drop-eligible bit stand beside the VLAN's number.
TEST(VlanSide, PriorityBitsAreNotPartOfTheNumber) {
  World world(tagged());
  world.client.connect();
  const Octets request = ask(world, kServer4);
  for (const int bits : {0x10, 0xe0, 0xf0}) {
    Octets tagged_frame = frame(kServerMac, kLanMac, answer_to(request, text("!")), kVlan);
    tagged_frame[14] = static_cast<std::uint8_t>(tagged_frame[14] | bits);
    world.client.received.clear();
    world.gateway.receive(kLan, tagged_frame);
    EXPECT_EQ(world.client.received.size(), 1U) << bits;
  }
}

TEST(VlanSide, AnotherVlanNoTagAndTwoTagsAreRefused) {
  World world(tagged());
  world.client.connect();
  const Octets answer = answer_to(ask(world, kServer4), text("!"));
  const auto unexpected = world.gateway.drops(DropReason::vlan_unexpected);
  world.gateway.receive(kLan, frame(kServerMac, kLanMac, answer, kVlan + 1));
  world.gateway.receive(kLan, frame(kServerMac, kLanMac, answer));
  EXPECT_EQ(world.gateway.drops(DropReason::vlan_unexpected), unexpected + 2);
  // 802.1ad: a service tag outside, and a second tag inside.
  Octets service = frame(kServerMac, kLanMac, answer, kVlan);
  service[12] = 0x88;
  service[13] = 0xa8;
  Octets doubled = frame(kServerMac, kLanMac, answer, kVlan);
  const Octets inner_tag = {0x81, 0x00, 0x00, 0x07};
  doubled.insert(doubled.begin() + 16, inner_tag.begin(), inner_tag.end());
  const auto unknown = world.gateway.drops(DropReason::ether_type_unknown);
  world.gateway.receive(kLan, service);
  EXPECT_EQ(world.gateway.drops(DropReason::vlan_unexpected), unexpected + 3);
  world.gateway.receive(kLan, doubled);
  EXPECT_EQ(world.gateway.drops(DropReason::ether_type_unknown), unknown + 1);
  EXPECT_TRUE(world.client.received.empty());
}

// A frame with a tag of number 0 has a priority and no VLAN: untagged otherwise.
TEST(VlanSide, PriorityTagsOnAnUntaggedPort) {
  World world;
  world.client.connect();
  Octets answer = ethernet(kServerMac, kLanMac, EtherType::ipv4, answer_to(ask(world, kServer4), text("!")));
  const Octets tag = {0x81, 0x00, 0xa0, 0x00};
  answer.insert(answer.begin() + 12, tag.begin(), tag.end());
  world.gateway.receive(kLan, answer);
  EXPECT_EQ(world.client.received.size(), 1U);
}

TEST(VlanSide, FragmentsAndErrorsCarryTagsToo) {
  World world(tagged());
  world.client.connect();
  const Octets request = ask(world, kServer4);
  // Too long for the tunnel, and DF set: the error leaves with the tag.
  const auto before = world.gateway.sent[kLan].size();
  world.gateway.receive_from(world.server, kLan, answer_to(request, Octets(1400, 'x')));
  ASSERT_GT(world.gateway.sent[kLan].size(), before);
  const Octets& error = world.gateway.sent[kLan].back();
  EXPECT_EQ((error[14] << 8 | error[15]) & 0x0fff, kVlan);
  EXPECT_EQ(error[18 + 9], ip_protocol::icmp);
  // Without DF it comes in pieces.
  IpOptions options;
  options.dont_fragment = false;
  world.gateway.receive_from(world.server, kLan, answer_to(request, Octets(1400, 'x'), options));
  EXPECT_EQ(world.client.received.size(), 2U);
}

TEST(RoutedSide, ClientsAppearAsTheyAre) {
  World world(routed());
  world.client.connect();
  for (const IpAddress& to : {kServer4, kServer6}) {
    const IpAddress& from = to.is_v4() ? world.client.tunnel_v4 : world.client.tunnel_v6;
    const Octets request = ask(world, to);
    ASSERT_FALSE(request.empty());
    EXPECT_EQ(ip_source(request, parse_ip(request).view), from);
    world.gateway.receive_from(world.server, kLan, answer_to(request, text("!")));
    EXPECT_EQ(world.client.received.size(), 1U);
  }
  // Across families there is no other way.
  const Octets across = ask(world, world.names.only_v4_as_v6);
  EXPECT_EQ(ip_source(across, parse_ip(across).view), ip("203.0.113.1"));
}

TEST(RoutedSide, NobodyReachesAClientThatDidNotAsk) {
  World world(routed());
  world.client.connect();
  world.client.received.clear();
  world.gateway.receive_from(world.server, kLan,
                             udp_packet({kServer4, 53}, {world.client.tunnel_v4, 4000}, text("!")));
  world.gateway.receive_from(world.server, kLan, echo_request(kServer4, world.client.tunnel_v4));
  EXPECT_TRUE(world.client.received.empty());
}

}  // namespace
}  // namespace penstock::gateway::test
