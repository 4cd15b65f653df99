// Sessions that end, are missing, or change: packets that wait for one, keys, clocks, peers that go.
#include <gtest/gtest.h>

#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

// trap: paths-7: the LAN speaks first.
TEST(Sessions, TheLanWakesAPeerWhoseSessionHasEnded) {
  World world;
  world.client.connect();
  world.client.send(udp_packet({world.client.tunnel_v4, 9}, {kServer4, 53}, text("q")));
  world.gateway.run(50ms);
  const Octets first = world.server.received.back();
  const std::uint16_t port = view_as<UdpHeader>(Bytes{first}.subspan(20))->source_port.host();
  world.gateway.run(200s);  // longer than a session lives, shorter than a UDP binding
  world.client.received.clear();
  world.gateway.receive_from(world.server, kLan, udp_packet({kServer4, 53}, {ip("203.0.113.1"), port}, text("one")));
  world.gateway.receive_from(world.server, kLan, udp_packet({kServer4, 53}, {ip("203.0.113.1"), port}, text("two")));
  world.gateway.run(200ms);
  ASSERT_EQ(world.client.received.size(), 2U);
  EXPECT_EQ(world.client.received[0].back(), 'e');
  EXPECT_EQ(world.client.received[1].back(), 'o');
  EXPECT_GE(events_of<SessionUp>(world.gateway).size(), 2U);
}

TEST(Sessions, WhatWaitsIsBoundedAndGivenUp) {
  World world;
  Client away(world.gateway, {ip("198.51.100.160"), 7000}, 11);
  auto policy = away.policy();
  world.gateway.publish(std::move(policy));
  wireguard::PeerConfig config;
  config.public_key = away.device().public_key();
  config.path_switch = true;
  config.endpoints = {{ip("198.51.100.161"), 7001}};  // nobody is there
  ASSERT_TRUE(world.gateway.slow->upsert_peer(config, world.gateway.now()));
  for (std::uint8_t i = 0; i < 100; ++i) {
    const std::uint8_t payload[] = {i, 1, 2, 3};
    EXPECT_EQ(world.gateway.slow->send_control(away.peer, payload, world.gateway.now()), DropReason::none);
    world.gateway.settle();
  }
  EXPECT_EQ(world.gateway.slow->held(), 32U);
  EXPECT_EQ(world.gateway.drops(DropReason::wg_queue_full), 68U);
  world.gateway.run(11s);
  EXPECT_EQ(world.gateway.slow->held(), 0U);
  EXPECT_EQ(world.gateway.drops(DropReason::wg_no_session), 32U);
}

// trap: paths-4
TEST(Sessions, AChangedPresharedKeyIsNoticed) {
  World world;
  world.client.connect();
  wireguard::PeerConfig config;
  config.public_key = world.client.device().public_key();
  config.path_switch = true;
  config.preshared_key.bytes[0] = 7;
  EXPECT_EQ(world.gateway.slow->upsert_peer(config, world.gateway.now()), world.client.peer);
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  EXPECT_EQ(world.client.received.size(), 1U) << "the live session stays";
  // A client that starts anew without the key gets no further; with it, it does.
  Client without(world.gateway, {ip("198.51.100.131"), 4000}, 12);
  config.public_key = without.device().public_key();
  ASSERT_EQ(world.gateway.slow->upsert_peer(config, world.gateway.now()), without.peer);
  EXPECT_FALSE(without.try_connect());
  const auto there = without.device().find_peer(world.gateway.public_key);
  wireguard::PeerConfig gateway;
  gateway.public_key = world.gateway.public_key;
  gateway.preshared_key = config.preshared_key;
  gateway.endpoints = {without.gateway_address};
  ASSERT_EQ(without.device().update_peer(*there, gateway, world.gateway.now()), wireguard::PeerError::none);
  without.connect();
}

// trap: paths-20: the wall clock steps back, and the machine sleeps.
TEST(Sessions, ClocksMayStepAndStop) {
  World world;
  world.client.connect();
  world.gateway.step_wall_clock(-86400);
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(200s);  // past REJECT-AFTER-TIME: a new handshake with a clock that is a day behind
  world.client.received.clear();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4, 7, 2));
  world.gateway.run(10s);
  EXPECT_EQ(world.client.received.size(), 1U);
  world.gateway.run(5h);
  world.client.received.clear();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4, 7, 3));
  world.gateway.run(10s);
  EXPECT_EQ(world.client.received.size(), 1U);
}

TEST(Sessions, ARemovedPeerIsGone) {
  World world;
  world.client.connect();
  const Octets sealed = world.client.seal(echo_request(world.client.tunnel_v4, kServer4));
  EXPECT_TRUE(world.gateway.slow->remove_peer(world.client.device().public_key().bytes, world.gateway.now()));
  EXPECT_FALSE(world.gateway.slow->remove_peer(world.client.device().public_key().bytes, world.gateway.now()));
  world.client.send_datagram(world.client.address, sealed);
  EXPECT_EQ(world.gateway.drops(DropReason::wg_unknown_index), 1U);
}

}  // namespace
}  // namespace penstock::gateway::test
