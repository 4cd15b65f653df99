// The engine with its real threads, over ports in memory: a WireGuard client on the WAN, a host on the LAN.
#include "dataplane/runtime/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <set>
#include <thread>

#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/config_static.h"
#include "dataplane/runtime/system_random.h"
#include "tests/unit/runtime/world.h"

namespace penstock::runtime {
namespace {

using namespace test;
using namespace gateway::test;
using namespace std::chrono_literals;

class EngineModes : public testing::TestWithParam<Options> {};

TEST_P(EngineModes, AClientReachesTheLanAndEveryBufferComesBack) {
  World world(GetParam());
  ASSERT_TRUE(world.apply({world.peer(), world.lan()}).errors.empty());
  for (int i = 0; i < 50; ++i) {
    const std::size_t before = world.received.size();
    world.send_inner(echo_request(kTunnel, kHost, 7, static_cast<std::uint16_t>(i)));
    ASSERT_TRUE(world.turn_until([&] { return world.received.size() > before; })) << "echo " << i;
  }
  EXPECT_EQ(IpAddress::from_wire(Bytes(world.lan_packets.front()).subspan(12, 4)), ip("203.0.113.1"));

  const auto counters = world.engine->counters();
  EXPECT_GE(counters.decrypted_packets, 50u);
  EXPECT_GE(counters.encrypted_packets, 50u);
  EXPECT_GE(counters.translated_up, 50u);
  EXPECT_EQ(counters.flows_created, 1u);
  const auto flows = world.engine->flows(0);
  ASSERT_EQ(flows.flows.size(), 1u);
  EXPECT_EQ(flows.flows[0].translation, "nat44");
  EXPECT_EQ(flows.flows[0].protocol, "icmp");
  EXPECT_EQ(flows.flows[0].peer, world.peer().public_key);
  const auto peers = world.engine->peers(0);
  ASSERT_EQ(peers.size(), 1u);
  EXPECT_EQ(peers[0].session, PeerRow::Session::up);
  EXPECT_EQ(peers[0].endpoint, (Endpoint{kClient, 40000}));
  EXPECT_EQ(peers[0].flows, 1u);
  EXPECT_EQ(peers[0].authorisations, 1u);
  EXPECT_GE(peers[0].rx_packets, 50u);
  std::set<std::string> neighbours;
  for (const auto& neighbour : world.engine->neighbours(0)) neighbours.insert(neighbour.address.to_string());
  EXPECT_TRUE(neighbours.contains("203.0.113.80"));

  // trap: io-8
  EXPECT_TRUE(eventually([&] { return world.pool_->stats().free == world.pool_->stats().size; }));
  world.engine->stop();
  EXPECT_EQ(world.pool_->stats().free, world.pool_->stats().size);
  EXPECT_EQ(world.platform_.threads.load(), 0);
}

INSTANTIATE_TEST_SUITE_P(Modes, EngineModes,
                         testing::Values(Options{1, PollMode::adaptive, true}, Options{1, PollMode::adaptive, false},
                                         Options{1, PollMode::busy, false}, Options{2, PollMode::adaptive, true},
                                         Options{1, PollMode::adaptive, true, 0},
                                         Options{2, PollMode::adaptive, true, 3}),
                         [](const auto& mode) {
                           return std::string(mode.param.poll == PollMode::busy ? "Busy" : "Adaptive") +
                                  (mode.param.wakes ? "WithDescriptors" : "Polled") +
                                  (mode.param.workers == 2 ? "TwoWorkers" : "OneWorker") +
                                  std::to_string(mode.param.handshake_threads) + "HandshakeThreads";
                         });

// The call returns when nobody judges by the old rights any more: the very next packet is refused.
TEST(Engine, ARevokedRightEndsALiveFlowBeforeTheCallReturns) {
  World world;
  world.apply({world.peer(), world.lan()});
  world.send_inner(echo_request(kTunnel, kHost));
  ASSERT_TRUE(world.turn_until([&] { return !world.received.empty(); }));
  ASSERT_TRUE(world.apply({RemoveAuthorisation{"a"}}).errors.empty());
  const std::size_t reached = world.lan_packets.size();
  const auto refused = [&] {
    const auto drops = world.engine->counters().drops;
    return drops[static_cast<std::size_t>(DropReason::policy_revoked)] +
           drops[static_cast<std::size_t>(DropReason::policy_no_resource)];
  };
  world.send_inner(echo_request(kTunnel, kHost, 7, 2));
  EXPECT_TRUE(world.turn_until([&] { return refused() > 0; }));
  EXPECT_EQ(world.lan_packets.size(), reached);
}

// trap: paths-22. Workers that poll without rest and a flood on the tunnel's port: the control process is answered, and
// its changes take effect.
TEST(Engine, TheControlProcessIsAnsweredWhileTheDataPathIsFlooded) {
  World world({2, PollMode::busy, false});
  std::atomic<bool> enough{false};
  std::thread flood([&] {
    const Octets junk =
        frame(kHostMac, kWanMac, udp_packet({kClient, 9}, {ip("198.51.100.194"), 51820}, Octets(148, 1)));
    while (!enough) {
      for (int i = 0; i < 64; ++i) world.ports_[kWan]->arrive(junk);
      world.ports_[kWan]->take_sent();
      // As fast as they are taken, without end.
      const auto& drops = world.engine->counters().drops;
      const std::uint64_t before = std::accumulate(drops.begin(), drops.end(), std::uint64_t{0});
      eventually([&] {
        const auto& now = world.engine->counters().drops;
        return enough || std::accumulate(now.begin(), now.end(), std::uint64_t{0}) >= before + 32;
      });
    }
  });
  for (int i = 0; i < 20; ++i) {
    const auto began = std::chrono::steady_clock::now();
    PeerSpec peer = world.peer();
    peer.public_key[0] = static_cast<std::uint8_t>(i + 1);
    peer.tunnel_v4 = ip("100.64.1." + std::to_string(i + 1));
    EXPECT_TRUE(world.apply({peer}).errors.empty());
    EXPECT_EQ(world.engine->peers(0).size(), static_cast<std::size_t>(i + 1));
    EXPECT_LE(std::chrono::steady_clock::now() - began, 5s) << i;
  }
  enough = true;
  flood.join();
}

TEST(Engine, ARemovedPeerIsGoneAndItsSlotIsSafe) {
  World world;
  world.apply({world.peer(), world.lan()});
  world.send_inner(echo_request(kTunnel, kHost));
  ASSERT_TRUE(world.turn_until([&] { return !world.received.empty(); }));
  world.apply({RemovePeer{world.peer().public_key}});
  EXPECT_TRUE(world.engine->peers(0).empty());
  const std::size_t reached = world.lan_packets.size();
  world.send_inner(echo_request(kTunnel, kHost, 7, 2));
  const auto unknown = [&] {
    return world.engine->counters().drops[static_cast<std::size_t>(DropReason::wg_unknown_index)];
  };
  EXPECT_TRUE(world.turn_until([&] { return unknown() > 0; }));
  EXPECT_EQ(world.lan_packets.size(), reached);
  for (int i = 0; i < 3; ++i) world.engine->maintain();
}

TEST(Engine, EventsReachAListenerAndAreForgottenWithoutOne) {
  World world;
  std::atomic<int> woken{0};
  world.engine->events().listen([&] { ++woken; });
  world.apply({world.peer(), world.lan()});
  world.send_inner(echo_request(kTunnel, kHost));
  std::optional<EngineEvent> up;
  ASSERT_TRUE(world.turn_until([&] {
    for (auto& event : world.engine->events().drain().items)
      if (event.kind == EngineEvent::Kind::session_up) up = event;
    return up.has_value();
  }));
  EXPECT_EQ(up->peer, world.peer().public_key);
  EXPECT_EQ(up->endpoint, (Endpoint{kClient, 40000}));
  EXPECT_GT(woken.load(), 0);
  world.engine->events().listen({});
  EXPECT_TRUE(world.engine->events().drain().items.empty());
}

TEST(Engine, DatagramsLeaveFromTheTunnelsPortAndOthersArePunted) {
  World world;
  world.engine->punts().listen([] {});
  const Octets request = {0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  world.engine->send_datagram({{kClient, 3478}}, Octets(2000));  // too long
  world.engine->send_datagram({{kClient, 3478}, {kClient, 3479}}, request);
  // Ours are on the wire once the neighbour has answered; the same coming back belongs to nobody here.
  std::set<int> to;
  const auto listen = [&] {
    for (const Octets& sent : world.ports_[kWan]->take_sent()) {
      if (sent[12] == 8 && sent[13] == 6)
        world.ports_[kWan]->arrive(
            ethernet(kHostMac, kWanMac, EtherType::arp, arp(false, kClient, kHostMac, ip("198.51.100.194"), kWanMac)));
      if (sent.size() == 14 + 28 + request.size() && std::equal(request.begin(), request.end(), sent.end() - 20))
        to.insert(sent[36] << 8 | sent[37]);
    }
  };
  ASSERT_TRUE(eventually([&] { return listen(), to.contains(3478) && to.contains(3479); }));
  for (int i = 0; i < 3 * Engine::kSendsUnderWay; ++i)
    world.engine->send_datagram({{kClient, static_cast<std::uint16_t>(5000 + i)}}, request);
  EXPECT_TRUE(eventually([&] { return listen(), to.size() == 2 + 3 * Engine::kSendsUnderWay; }));
  world.ports_[kWan]->arrive(
      frame(kHostMac, kWanMac, udp_packet({kClient, 3478}, {ip("198.51.100.194"), 51820}, request)));
  std::vector<Punt> punts;
  ASSERT_TRUE(eventually([&] {
    auto drained = world.engine->punts().drain();
    punts.insert(punts.end(), drained.items.begin(), drained.items.end());
    return !punts.empty();
  }));
  EXPECT_EQ(punts[0].remote, (Endpoint{kClient, 3478}));
  EXPECT_EQ(punts[0].payload, request);
  EXPECT_EQ(punts[0].peer, KeyBytes{});
}

// trap: io-4, io-7 — a queue that takes nothing costs counted packets, and nothing else.
TEST(Engine, AFullTransmitQueueIsCounted) {
  World world;
  for (auto* port : world.ports_) port->takes = 0;
  const Octets question =
      ethernet(kHostMac, kWanMac, EtherType::arp, arp(true, kClient, kHostMac, ip("198.51.100.194")));
  for (int i = 0; i < 100; ++i) world.ports_[kWan]->arrive(question);
  const auto lost = [&] { return world.engine->counters().drops[static_cast<std::size_t>(DropReason::tx_full)]; };
  EXPECT_TRUE(eventually([&] { return lost() >= 100; }));
  for (auto* port : world.ports_) port->takes = SIZE_MAX;
  world.ports_[kWan]->arrive(question);
  EXPECT_TRUE(eventually([&] { return !world.ports_[kWan]->take_sent().empty(); }));
  EXPECT_TRUE(eventually([&] { return world.pool_->stats().free == world.pool_->stats().size; }));
}

// Callers of every kind at once, while traffic flows.
TEST(Engine, CallersDoNotDisturbEachOther) {
  World world;
  world.apply({world.peer(), world.lan()});
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  callers.emplace_back([&] {
    std::uint64_t seen = 0;
    while (!stop)
      seen += world.engine->flows(0).total + world.engine->peers(0).size() + world.engine->neighbours(0).size() +
              world.engine->counters().loops;
    EXPECT_GT(seen, 0u);
  });
  callers.emplace_back([&] {
    for (std::uint16_t n = 0; !stop; ++n) {
      AuthorisationSpec other = world.lan();
      other.id = "b";
      other.filter.tcp = {{n, n}};
      world.apply({other});
      world.engine->maintain();
    }
  });
  for (int i = 0; i < 30; ++i) {
    const std::size_t before = world.received.size();
    world.send_inner(echo_request(kTunnel, kHost, 7, static_cast<std::uint16_t>(i)));
    EXPECT_TRUE(world.turn_until([&] { return world.received.size() > before; })) << "echo " << i;
  }
  stop = true;
  for (auto& caller : callers) caller.join();
}

TEST(Engine, StoppingWithWorkUnderWayLosesNoBuffer) {
  for (int round = 0; round < 5; ++round) {
    World world;
    world.apply({world.peer(), world.lan()});
    for (int i = 0; i < 200; ++i)
      world.ports_[i % 2]->arrive(frame(kHostMac, i % 2 == 0 ? kWanMac : kLanMac,
                                        udp_packet({kHost, 1000}, {ip("203.0.113.1"), 2000}, Octets(100))));
    world.engine->stop();
    EXPECT_EQ(world.pool_->stats().free, world.pool_->stats().size);
    EXPECT_TRUE(world.engine->peers(0).size() == 1u) << "views go on working";
  }
}

TEST(BoundedQueue, CountsWhatItLoses) {
  BoundedQueue<int> queue(2);
  EXPECT_FALSE(queue.push(1)) << "nobody listens";
  int woken = 0;
  queue.listen([&] { ++woken; });
  EXPECT_TRUE(queue.push(1));
  EXPECT_TRUE(queue.push(2));
  EXPECT_FALSE(queue.push(3));
  auto drained = queue.drain();
  EXPECT_EQ(drained.items, (std::vector<int>{1, 2}));
  EXPECT_EQ(drained.lost, 1u);
  EXPECT_EQ(woken, 1);
  EXPECT_TRUE(queue.push(4));
  EXPECT_EQ(woken, 2);
  EXPECT_EQ(queue.drain().lost, 0u);
}

}  // namespace
}  // namespace penstock::runtime
