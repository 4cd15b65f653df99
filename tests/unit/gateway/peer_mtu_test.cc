// A way to the client that carries less than the configured inner MTU: what is sent to the client fits it, or its
// sender is told, through every translation.
#include <gtest/gtest.h>

#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

constexpr std::uint16_t kInner = 1420;
constexpr std::uint16_t kPort = 40001;

GatewayOptions wide() {
  GatewayOptions options;
  options.description.inner_mtu = kInner;
  return options;
}

Octets probe(std::uint16_t inner_mtu, bool sized = false, std::size_t size = 0) {
  wireguard::Probe out;
  out.id = 5;
  out.inner_mtu = inner_mtu;
  out.sized = sized;
  return wireguard::make_sized_probe_packet(out, wireguard::ControlDirection::to_gateway, size);
}

void say(World& world, std::uint16_t inner_mtu) {
  world.client.send(probe(inner_mtu));
  world.gateway.run(20ms);
  world.client.received.clear();
}

struct Case {
  const char* what;
  IpAddress to;      // as the client sees the server
  IpAddress server;  // as it is
};

std::vector<Case> translations(const World& world) {
  return {{"NAT44", world.names.only_v4_as_v4, kServer4},
          {"NAT64", world.names.only_v4_as_v6, kServer4},
          {"NAT46", world.names.only_v6_as_v4, kServer6},
          {"NAT66", world.names.only_v6_as_v6, kServer6}};
}

// The client opens a flow; returns where the server sees it.
Endpoint open_flow(World& world, const Case& c) {
  world.server.received.clear();
  const IpAddress& from = c.to.is_v4() ? world.client.tunnel_v4 : world.client.tunnel_v6;
  world.client.send(udp_packet({from, kPort}, {c.to, 53}, text("hello")));
  world.gateway.run(20ms);
  EXPECT_EQ(world.server.received.size(), 1U);
  if (world.server.received.empty()) return {};
  const Octets& there = world.server.received[0];
  const IpParse parse = parse_ip(there);
  const auto* udp = view_as<UdpHeader>(Bytes{there}.subspan(parse.view.header_length));
  const Endpoint seen{ip_source(there, parse.view), udp->source_port.host()};
  world.server.received.clear();
  world.client.received.clear();
  return seen;
}

std::size_t header(const IpAddress& address) {
  return address.is_v4() ? 20 : 40;
}

// An answer of the server that is `inner` bytes long when it leaves for the client.
Octets answer(const Case& c, const Endpoint& to, std::size_t inner, bool dont_fragment = true) {
  IpOptions options;
  options.dont_fragment = dont_fragment;
  return udp_packet({c.server, 53}, to, Octets(inner - header(c.to) - 8, 'a'), options);
}

struct Told {
  std::uint32_t mtu = 0;
  bool quotes = false;  // the packet as the server sent it
};

std::optional<Told> told(const Octets& packet, const Octets& about) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none) return std::nullopt;
  const Bytes icmp = Bytes{packet}.subspan(parse.view.header_length);
  const auto* icmp_header = view_as<IcmpHeader>(icmp);
  const bool four = parse.view.protocol == ip_protocol::icmp;
  if (icmp_header == nullptr || icmp_header->type != (four ? icmp4::unreachable : icmp6::packet_too_big))
    return std::nullopt;
  const Bytes quoted = icmp.subspan(sizeof(IcmpHeader));
  const std::size_t ends = four ? 20 + 8 : 40 + 8;
  Told out{icmp_header->field2.host(), quoted.size() >= ends};
  // Addresses and ports; the hop limit and IPv4's checksum have changed on the way.
  for (std::size_t i = four ? 12 : 8; i < ends - 4 && out.quotes; ++i) out.quotes = quoted[i] == about[i];
  return out;
}

TEST(PeerMtu, WhoSendsTooMuchIsToldAsItLooksFromThere) {
  for (const std::uint16_t mtu : {std::uint16_t{1300}, std::uint16_t{1408}}) {
    World world(wide());
    world.client.connect();
    say(world, mtu);
    for (const Case& c : translations(world)) {
      SCOPED_TRACE(std::string(c.what) + " " + std::to_string(mtu));
      const Endpoint seen = open_flow(world, c);
      const std::size_t difference = header(c.to) - header(c.server);
      // The first is judged on its way into the tunnel, the second by what the flow has learned.
      for (int i = 0; i < 2; ++i) {
        const Octets big = answer(c, seen, mtu + 1U);
        world.gateway.receive_from(world.server, kLan, big);
        world.gateway.run(20ms);
        EXPECT_TRUE(world.client.received.empty());
        ASSERT_EQ(world.server.received.size(), 1U) << i << " " << world.gateway.describe_drops();
        const auto error = told(world.server.received[0], big);
        ASSERT_TRUE(error);
        EXPECT_TRUE(error->quotes);
        EXPECT_EQ(error->mtu, std::max<std::size_t>(mtu - difference, c.server.is_v4() ? 0 : 1280));
        world.server.received.clear();
      }
      world.gateway.receive_from(world.server, kLan, answer(c, seen, mtu));
      world.gateway.run(20ms);
      ASSERT_EQ(world.client.received.size(), 1U) << "what fits passes";
      EXPECT_EQ(world.client.received[0].size(), mtu);
      EXPECT_EQ(world.client.datagrams.back().size(), mtu / 16U * 16U + (mtu % 16U != 0 ? 16U : 0U) + 32U);
    }
  }
}

TEST(PeerMtu, WhatMayBeCutIsCut) {
  World world(wide());
  world.client.connect();
  say(world, 1300);
  const Case c = translations(world)[0];
  const Endpoint seen = open_flow(world, c);
  world.gateway.receive_from(world.server, kLan, answer(c, seen, 1400, false));
  world.gateway.run(20ms);
  EXPECT_TRUE(world.server.received.empty());
  ASSERT_EQ(world.client.received.size(), 2U);
  EXPECT_EQ(carried_by(world.client.received, 1300), 1380U);
}

TEST(PeerMtu, ASizedProbeIsAnsweredByOneAsLong) {
  World world(wide());
  world.client.connect();
  for (const std::size_t size : {1296U, 1312U, 1420U}) {
    world.client.received.clear();
    world.client.send(probe(1280, true, size));  // also while less is known to pass
    world.gateway.run(20ms);
    ASSERT_EQ(world.client.received.size(), 1U);
    EXPECT_EQ(world.client.received[0].size(), size);
    const auto control = wireguard::parse_control(world.client.received[0]);
    ASSERT_TRUE(control);
    const auto reply = wireguard::parse_probe(control->payload);
    ASSERT_TRUE(reply);
    EXPECT_TRUE(reply->sized);
    EXPECT_EQ(reply->id, 5U);
  }
}

TEST(PeerMtu, ASizeThatIsNoIpv6LinksIsNotBelieved) {
  World world(wide());
  world.client.connect();
  say(world, 100);
  const Case c = translations(world)[3];
  const Endpoint seen = open_flow(world, c);
  world.gateway.receive_from(world.server, kLan, answer(c, seen, 1280));
  world.gateway.run(20ms);
  EXPECT_EQ(world.client.received.size(), 1U);
}

TEST(PeerMtu, WhoSaysNothingGetsWhatIsConfigured) {
  World world(wide());
  world.client.connect();
  const Case c = translations(world)[0];
  const Endpoint seen = open_flow(world, c);
  world.gateway.receive_from(world.server, kLan, answer(c, seen, kInner));
  world.gateway.run(20ms);
  ASSERT_EQ(world.client.received.size(), 1U);
  EXPECT_EQ(world.client.received[0].size(), kInner);
}

}  // namespace
}  // namespace penstock::gateway::test
