// What no input may do: crash, leak, or change anything.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/gateway/strangers.h"

namespace penstock::gateway::test {
namespace {

TEST(Spoilt, ForgedAndReplayedPacketsChangeNothing) {
  World world;
  Client standard(world.gateway, {ip("198.51.100.140"), 5000}, 5, false);
  world.gateway.publish(standard.policy());
  standard.connect();
  const Octets real = standard.seal(echo_request(standard.tunnel_v4, kServer4));
  standard.send_datagram(standard.address, real);
  world.gateway.run(50ms);
  const std::size_t delivered = world.server.received.size();
  // From elsewhere: the same datagram, damaged ones, a counter far ahead. None may move the standard peer's endpoint or
  // the replay window.
  standard.send_datagram(kStranger, real);
  Octets ahead = real;
  ahead[8 + 5] = 0x7f;
  standard.send_datagram(kStranger, ahead);
  for (std::size_t at = 16; at < real.size(); at += 7) standard.send_datagram(kStranger, spoilt(real, at, 0x80));
  EXPECT_EQ(world.server.received.size(), delivered);
  standard.received.clear();
  standard.send_datagram(standard.address, standard.seal(echo_request(standard.tunnel_v4, kServer4, 7, 2)));
  world.gateway.run(50ms);
  ASSERT_EQ(standard.received.size(), 1U);
  EXPECT_EQ(standard.received_from.back(), standard.address);
}

// trap: io-8. Anything on any port, in any order: no crash, no leak, and the gateway still works.
RC_GTEST_PROP(Spoilt, FramesAreSurvived, ()) {
  World world;
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(20ms);
  const Octets seeds[] = {
      from_stranger(stun_request()),
      from_stranger(Octets{1, 0, 0, 0} + Octets(144, 7)),
      from_stranger(world.client.seal(echo_request(world.client.tunnel_v4, kServer4))),
      from_stranger(world.client.seal(control_packet(1, Octets(23, 1)))),
      frame(kServerMac, kWanMac,
            icmp_packet(kStranger.address, kTunnel.address, 3, 1, 0, 0, udp_packet(kTunnel, kStranger, {}))),
      frame(kServerMac, kLanMac, icmp_packet(kServer4, ip("203.0.113.1"), 0, 0, 7, 1, text("pong"))),
      frame(kServerMac, kLanMac, udp_packet({kServer6, 53}, {ip("2001:db8:1a::1"), 4000}, text("x"))),
      frame(kServerMac, kLanMac,
            discovery(135, kServer6, ip("2001:db8:1a::1"), ip("2001:db8:1a::1"), 0, link_layer_option(1, kServerMac))),
      ethernet(kServerMac, kLanMac, EtherType::arp, arp(true, kServer4, kServerMac, ip("203.0.113.1"))),
  };
  for (int burst = 0; burst < 8; ++burst) {
    std::vector<Octets> frames;
    const int count = *rc::gen::inRange(1, 20);
    for (int i = 0; i < count; ++i) {
      Octets bytes = seeds[*rc::gen::inRange<std::size_t>(0, std::size(seeds))];
      const int edits = *rc::gen::inRange(0, 6);
      for (int edit = 0; edit < edits; ++edit)
        bytes[*rc::gen::inRange<std::size_t>(0, bytes.size())] = *rc::gen::arbitrary<std::uint8_t>();
      if (*rc::gen::inRange(0, 4) == 0) bytes.resize(*rc::gen::inRange<std::size_t>(0, bytes.size() + 1));
      frames.push_back(bytes);
    }
    world.gateway.receive(static_cast<PortIndex>(*rc::gen::inRange(0, 2)), frames);
    world.gateway.run(10ms);
  }
  RC_ASSERT(world.gateway.packets.live() == world.gateway.slow->held());
}

// The inside of the tunnel is no better: peers are authenticated, not trusted.
RC_GTEST_PROP(Spoilt, InnerPacketsAreSurvived, ()) {
  World world;
  world.client.connect();
  const Octets seeds[] = {
      echo_request(world.client.tunnel_v4, kServer4),
      echo_request(world.client.tunnel_v6, world.names.only_v4_as_v6),
      udp_packet({world.client.tunnel_v4, 5}, {world.names.only_v6_as_v4, 53}, text("q")),
      tcp_packet({world.client.tunnel_v6, 5}, {kServer6, 80}, tcp_flag::syn),
      icmp_packet(world.client.tunnel_v4, kServer4, 3, 3, 0, 0,
                  udp_packet({kServer4, 1}, {world.client.tunnel_v4, 2}, {})),
      control_packet(3, text("control")),
      control_packet(1, Octets(23, 1)),
  };
  for (int i = 0; i < 40; ++i) {
    Octets bytes = seeds[*rc::gen::inRange<std::size_t>(0, std::size(seeds))];
    const int edits = *rc::gen::inRange(0, 6);
    for (int edit = 0; edit < edits; ++edit)
      bytes[*rc::gen::inRange<std::size_t>(0, bytes.size())] = *rc::gen::arbitrary<std::uint8_t>();
    if (*rc::gen::inRange(0, 4) == 0) bytes.resize(*rc::gen::inRange<std::size_t>(0, bytes.size() + 1));
    world.client.send_datagram(world.client.address, world.client.seal(bytes));
    world.gateway.run(5ms);
  }
}

}  // namespace
}  // namespace penstock::gateway::test
