// Whatever floods one source of packets, the others are served.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "dataplane/core/wireguard/cookie.h"
#include "tests/unit/runtime/world.h"

namespace penstock::runtime {
namespace {

using namespace test;
using namespace gateway::test;

Octets forged_initiation(World& world, const wireguard::PublicKey& gateway) {
  Octets forged(sizeof(wireguard::InitiationMessage));
  world.random_.fill(forged);
  store_le<std::uint32_t>(forged.data(), 1);
  wireguard::put_mac1(forged, gateway);
  wireguard::put_mac2(forged, std::nullopt);
  return forged;
}

Octets to_tunnel_port(std::uint32_t stranger, const Octets& payload) {
  return frame(kHostMac, kWanMac,
               udp_packet({IpAddress::v4(0xc6120000 + stranger), 1000}, {ip("198.51.100.194"), 51820}, payload));
}

// A peer whose address the control process has named gets its tunnel while strangers flood the gateway with messages
// that have a valid mac1; those are offered cookies and cost no session, no buffer and nobody's tunnel.
TEST(Engine, AFloodOfForgedInitiationsLeavesKnownPeersAlone) {
  World world;
  PeerSpec peer = world.peer();
  peer.endpoints = {{kClient, 40000}};
  ASSERT_TRUE(world.apply({peer, world.lan()}).errors.empty());
  wireguard::PublicKey gateway;
  gateway.bytes = world.engine->info().public_key;
  for (std::uint32_t i = 0; i < 6000; ++i) {
    world.ports_[kWan]->arrive(to_tunnel_port(i, forged_initiation(world, gateway)));
    if (i == 4000) world.send_inner(echo_request(kTunnel, kHost, 7, 1));
    if (i == 4000) world.turn();
  }
  EXPECT_TRUE(world.turn_until([&] { return !world.received.empty(); }));
  const auto refused = [&](DropReason reason) {
    return world.engine->counters().drops[static_cast<std::size_t>(reason)];
  };
  EXPECT_TRUE(world.turn_until([&] {
    return refused(DropReason::wg_mac2_required) + refused(DropReason::handshake_ring_full) +
               refused(DropReason::wg_handshake_invalid) >=
           6000;
  }));
  EXPECT_GT(refused(DropReason::wg_mac2_required), 0u);
  EXPECT_TRUE(eventually([&] {
    const HandshakeInfo handshakes = world.engine->info().handshakes;
    return handshakes.threads == 1 && handshakes.answered == 1 && handshakes.from_known == 1 &&
           handshakes.cookies > 0 && handshakes.with_cookie == 0;
  }));
  EXPECT_TRUE(eventually([&] { return world.pool_->stats().free == world.pool_->stats().size; }));
}

// While the gate is overrun, most strangers without a cookie do not even get to it: it would find that their mac1 is
// wrong, since there are cookies left to give.
TEST(Engine, AnOverrunGateIsSparedStrangers) {
  World world;
  wireguard::PublicKey gateway;
  gateway.bytes = world.engine->info().public_key;
  const auto refused = [&](DropReason reason) {
    return world.engine->counters().drops[static_cast<std::size_t>(reason)];
  };
  std::uint64_t arrived = 0;
  const auto flood = [&](std::uint32_t count, bool valid) {
    for (std::uint32_t i = 0; i < count; ++i) {
      Octets forged = forged_initiation(world, gateway);
      if (!valid) forged[50] ^= 1;
      world.ports_[kWan]->arrive(to_tunnel_port(i, forged));
    }
    arrived += count;
    return world.turn_until([&] {
      return refused(DropReason::wg_mac1) + refused(DropReason::wg_mac2_required) +
                 refused(DropReason::handshake_ring_full) + refused(DropReason::wg_handshake_invalid) >=
             arrived;
    });
  };
  EXPECT_TRUE(eventually([&] {  // a second may end between the two
    EXPECT_TRUE(flood(2000, true));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // in which there are four hundred cookies more
    const std::uint64_t before = refused(DropReason::wg_mac2_required);
    EXPECT_TRUE(flood(2000, false));
    return refused(DropReason::wg_mac2_required) > before;
  }));
}

// trap: io-9 — however much waits at one port, the other gets its burst in every turn; a port full of handshakes, which
// cost little, a few bursts.
TEST(Fairness, NoPortStarvesAnother) {
  constexpr std::size_t kMostBurstsOfHandshakes = 6;
  for (const bool handshakes : {false, true}) {
    std::atomic<bool> held{true};
    World world({1, PollMode::busy, false});
    wireguard::PublicKey gateway;
    gateway.bytes = world.engine->info().public_key;
    std::vector<std::pair<PortIndex, std::size_t>> taken;  // by the worker, in its order
    for (const PortIndex port : {kWan, kLan}) world.ports_[port]->held = &held;
    for (std::uint32_t i = 0; i < 2000; ++i)
      world.ports_[kWan]->arrive(
          to_tunnel_port(i, handshakes ? forged_initiation(world, gateway) : Octets{0, 1, 2, 3, 4, 5, 6, 7}));
    for (std::uint32_t i = 0; i < 2000; ++i)
      world.ports_[kLan]->arrive(frame(kHostMac, kLanMac, udp_packet({kHost, 9}, {ip("203.0.113.1"), 9}, Octets(8))));
    for (const PortIndex port : {kWan, kLan})
      world.ports_[port]->on_receive = [&taken, port](std::size_t n) { taken.emplace_back(port, n); };
    held = false;  // of both at once
    ASSERT_TRUE(eventually([&] { return world.ports_[kWan]->waiting() + world.ports_[kLan]->waiting() == 0; }));
    world.engine->stop();

    std::size_t total[2] = {0, 0}, in_a_row = 0, most[2] = {0, 0};
    PortIndex last = kWan;
    for (const auto& [port, n] : taken) {
      const PortIndex other = port == kWan ? kLan : kWan;
      in_a_row = port == last ? in_a_row + n : n;
      last = port;
      // As long as the other has something: not before it was let go, nor when it is through.
      if (total[other] > 0 && total[other] < 2000) most[port] = std::max(most[port], in_a_row);
      total[port] += n;
    }
    EXPECT_EQ(total[kWan], 2000u);
    EXPECT_EQ(total[kLan], 2000u);
    EXPECT_LE(most[kLan], kBurst);
    EXPECT_LE(most[kWan], handshakes ? kMostBurstsOfHandshakes * kBurst : kBurst);
    EXPECT_GT(most[kWan], 0u) << "both had something at the same time";
  }
}

}  // namespace
}  // namespace penstock::runtime
