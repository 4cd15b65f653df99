// What the gateway answers itself, and what it leaves to the host's kernel.
#include <gtest/gtest.h>

#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

TEST(Local, AnswersForItself) {
  World world;
  Host& host = world.server;
  // trap: io-8, and ARP/ND for every address of ours, the translator's included
  const struct {
    IpAddress from, to;
    PortIndex port;
  } cases[] = {{kServer4, ip("203.0.113.1"), kLan},
               {kServer6, ip("2001:db8:1a::1"), kLan},
               {kServer6, link_local_of(kLanMac), kLan},
               {ip("198.51.100.193"), ip("198.51.100.194"), kWan},
               {ip("2001:db8:ee::ffff"), ip("2001:db8:ee::1"), kWan}};
  for (const auto& c : cases) {
    Host& asker = c.port == kLan ? host : world.router;
    asker.received.clear();
    world.gateway.receive_from(asker, c.port, echo_request(c.from, c.to));
    ASSERT_EQ(asker.received.size(), 1U) << c.to.to_string();
    const IpParse parse = parse_ip(asker.received[0]);
    EXPECT_EQ(ip_source(asker.received[0], parse.view), c.to);
    EXPECT_EQ(payload_of(asker.received[0]), text("are you there?"));
  }
}

TEST(Local, AnswersArpAndDiscovery) {
  GatewayOptions options;
  options.description.nat.source_addresses = {ip("203.0.113.200"), ip("2001:db8:1a::200")};
  Gateway gateway(options);
  const MacAddress asker = {2, 0, 0, 0, 7, 7};
  const MacAddress broadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  for (const char* ours : {"203.0.113.1", "203.0.113.200"}) {
    gateway.sent[kLan].clear();
    gateway.receive(kLan, ethernet(asker, broadcast, EtherType::arp, arp(true, ip("203.0.113.9"), asker, ip(ours))));
    ASSERT_EQ(gateway.sent[kLan].size(), 1U) << ours;
    EXPECT_EQ(gateway.sent[kLan][0],
              ethernet(kLanMac, asker, EtherType::arp, arp(false, ip(ours), kLanMac, ip("203.0.113.9"), asker)));
  }
  NeighbourView view;
  EXPECT_TRUE(gateway.neighbours.find(kLan, ip("203.0.113.9"), view)) << "who asks us will be spoken to: learnt";
  for (const char* ours : {"2001:db8:1a::1", "2001:db8:1a::200", "fe80::ff:fe00:2"}) {
    gateway.sent[kLan].clear();
    const IpAddress target = ip(ours);
    gateway.receive(kLan, frame(asker, {0x33, 0x33, 0xff, 0, 0, 0},
                                discovery(icmp6::neighbour_solicitation, ip("2001:db8:1a::9"),
                                          solicited_node_of(target), target, 0, link_layer_option(1, asker))));
    ASSERT_EQ(gateway.sent[kLan].size(), 1U) << ours;
    EXPECT_EQ(gateway.sent[kLan][0], frame(kLanMac, asker,
                                           discovery(icmp6::neighbour_advertisement, target, ip("2001:db8:1a::9"),
                                                     target, 0xe0, link_layer_option(2, kLanMac))));
  }
  // Not for somebody else's address, nor for one of ours that lives on the other port.
  gateway.sent[kLan].clear();
  for (const char* other : {"203.0.113.77", "198.51.100.194"})
    gateway.receive(kLan, ethernet(asker, broadcast, EtherType::arp, arp(true, ip("203.0.113.9"), asker, ip(other))));
  EXPECT_TRUE(gateway.sent[kLan].empty());
  // Duplicate address detection of an address of ours is defended, to all nodes.
  const IpAddress us = ip("2001:db8:1a::1");
  gateway.receive(kLan, frame(asker, {0x33, 0x33, 0xff, 0, 0, 1},
                              discovery(icmp6::neighbour_solicitation, ip("::"), solicited_node_of(us), us, 0, {})));
  ASSERT_EQ(gateway.sent[kLan].size(), 1U);
  EXPECT_EQ(gateway.sent[kLan][0], frame(kLanMac, {0x33, 0x33, 0, 0, 0, 1},
                                         discovery(icmp6::neighbour_advertisement, us, ip("ff02::1"), us, 0xa0,
                                                   link_layer_option(2, kLanMac))));
}

TEST(Local, KernelGetsTheRestAndSpeaksAsUs) {
  GatewayOptions options;
  options.description.exception = {true, kKernelMac};
  World world(options);
  MacAddress ours = kKernelMac;
  ours[5] ^= 1;
  const Octets in = tcp_packet({kServer4, 443}, {ip("203.0.113.1"), 40000}, tcp_flag::ack);
  world.gateway.receive_from(world.server, kLan, in);
  ASSERT_EQ(world.gateway.to_kernel.size(), 1U);
  EXPECT_EQ(world.gateway.to_kernel[0], frame(ours, kKernelMac, in));
  // It asks for any next hop, and is answered by us.
  world.gateway.to_kernel.clear();
  world.gateway.from_kernel(ethernet(kKernelMac, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EtherType::arp,
                                     arp(true, ip("203.0.113.1"), kKernelMac, kServer4)));
  ASSERT_EQ(world.gateway.to_kernel.size(), 1U);
  EXPECT_EQ(world.gateway.to_kernel[0],
            ethernet(ours, kKernelMac, EtherType::arp, arp(false, kServer4, ours, ip("203.0.113.1"), kKernelMac)));
  // What it sends is routed like our own.
  const Octets out = tcp_packet({ip("203.0.113.1"), 40000}, {kServer4, 443}, tcp_flag::syn);
  world.gateway.from_kernel(frame(kKernelMac, ours, out));
  ASSERT_EQ(world.server.received.size(), 1U);
  EXPECT_EQ(world.server.received[0], out);
  // But only as us: the host is no router through the gateway.
  world.gateway.from_kernel(frame(kKernelMac, ours, tcp_packet({ip("192.0.2.1"), 1}, {kServer4, 443}, tcp_flag::syn)));
  EXPECT_EQ(world.gateway.drops(DropReason::ip_source_invalid), 1U);
}

}  // namespace
}  // namespace penstock::gateway::test
