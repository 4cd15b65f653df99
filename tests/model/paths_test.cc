// Paths in a simulated network: which NAT kinds allow a direct path, and what heals after what.
#include <gtest/gtest.h>

#include <iostream>
#include <tuple>

#include "tests/model/world.h"

namespace penstock::model {
namespace {

NatBehaviour nat(Dependence mapping, Dependence filtering, bool preserves = false) {
  NatBehaviour out;
  out.mapping = mapping;
  out.filtering = filtering;
  if (preserves) out.ports = PortChoice::preserving;
  return out;
}

// The reference: RFC 4787's kinds, one external address each, ports not predictable. Both ends send to the other's
// server-reflexive address.
bool direct_is_possible(const NatBehaviour& client, const NatBehaviour& gateway) {
  using enum Dependence;
  const bool client_fixed = client.mapping == independent;
  const bool gateway_fixed = gateway.mapping == independent;
  if (client_fixed && gateway_fixed) return true;
  // One end shows another port than it told: the other must let an unknown port of a known address in.
  if (client_fixed) return client.filtering != address_and_port;
  if (gateway_fixed) return gateway.filtering != address_and_port;
  // Neither is where it said, save on the mapping made towards the STUN server: somebody must accept anything there,
  // and the other end must accept that the answer comes from another port.
  return (gateway.filtering == independent && client.filtering != address_and_port) ||
         (client.filtering == independent && gateway.filtering != address_and_port);
}

TEST(Matrix, DirectWhereRfc4787AllowsItAndRelayedElsewhere) {
  unsigned direct = 0;
  for (const Dependence client_mapping : kDependences)
    for (const Dependence client_filtering : kDependences)
      for (const Dependence gateway_mapping : kDependences)
        for (const Dependence gateway_filtering : kDependences) {
          WorldConfig config;
          config.client_nat = nat(client_mapping, client_filtering);
          config.gateway_nat = nat(gateway_mapping, gateway_filtering);
          World world{config};
          world.run(1s);
          world.run(6s, 20);
          const std::string cell =
              "client: " + config.client_nat->to_string() + "; gateway: " + config.gateway_nat->to_string();
          ASSERT_TRUE(world.client->primary()) << cell;
          EXPECT_EQ(world.direct(), direct_is_possible(*config.client_nat, *config.gateway_nat)) << cell;
          world.run(500ms);
          EXPECT_EQ(world.lost_up(), 0u) << cell;
          EXPECT_EQ(world.lost_echoes(), 0u) << cell;
          direct += world.direct() ? 1 : 0;
        }
  EXPECT_EQ(direct, 9u + 12u + 12u + 12u) << "cells of the reference";
}

// Ports kept, as Linux does: symmetric in name, predictable in fact.
TEST(Matrix, PortPreservingNatsAreAlwaysDirect) {
  for (const Dependence client_filtering : kDependences)
    for (const Dependence gateway_filtering : kDependences) {
      WorldConfig config;
      config.client_nat = nat(Dependence::address_and_port, client_filtering, true);
      config.gateway_nat = nat(Dependence::address_and_port, gateway_filtering, true);
      World world{config};
      world.run(1s);
      world.run(6s, 20);
      world.run(500ms);
      EXPECT_TRUE(world.direct());
      EXPECT_EQ(world.lost_up(), 0u);
    }
}

TEST(Matrix, PublicAddressesAreDirect) {
  World world{{}};
  world.run(1s);
  world.run(2s, 50);
  EXPECT_TRUE(world.direct());
  world.run(100ms);
  EXPECT_EQ(world.lost_up(), 0u);
}

// "never no connection while a relay is reachable": even when no direct packet passes and there is no second relay.
TEST(FirstPacket, BudgetOfAColdTunnel) {
  WorldConfig config;
  config.client_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
  config.gateway_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
  World world{config};
  world.run(2s);
  world.run(1s, 100);
  world.run(500ms);
  // Request and grant (60 ms here, of which the grant arrives after 45), 1.5 round trips of 28 ms by the relay, 20 ms.
  EXPECT_EQ(world.lost_up(), 0u);
  EXPECT_LE(world.longest_delay(0), 60ms + 3 * 14ms + 20ms);
  EXPECT_EQ(world.client->requests, 1u);
}

struct Healing {
  const char* name;
  NatBehaviour client;
  NatBehaviour gateway;
};

std::vector<Healing> healing_pairs() {
  using enum Dependence;
  std::vector<Healing> out;
  const std::pair<const char*, NatBehaviour> kinds[] = {
      {"cone", nat(independent, address_and_port)},
      {"symmetric", nat(address_and_port, address_and_port)},
      {"preserving", nat(address_and_port, address_and_port, true)},
  };
  for (const auto& [client_name, client] : kinds)
    for (const auto& [gateway_name, gateway] : kinds)
      for (const bool rejects : {false, true}) {
        out.push_back({client_name, client, gateway});
        out.back().client.rejects = out.back().gateway.rejects = rejects;
        out.back().client.inbound_takes_port = out.back().gateway.inbound_takes_port = rejects;
      }
  return out;
}

// The upward stream of the client: its ring and its copies are what this part answers for.
class Resets : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(Resets, NoPacketIsLostAndThePortalIsNotNeeded) {
  const auto [client_forgets, gateway_forgets] = GetParam();
  for (const Healing& pair : healing_pairs()) {
    for (const unsigned rate : {10u, 200u}) {
      for (int phase = 0; phase < 3; ++phase) {
        WorldConfig config;
        config.seed = 100 + static_cast<std::uint64_t>(phase);
        config.client_nat = pair.client;
        config.gateway_nat = pair.gateway;
        World world{config};
        world.run(1s);
        world.run(8s + phase * 37ms, rate);
        ASSERT_TRUE(world.client->primary());
        world.introducer->up = false;
        const std::uint32_t first = world.sent;
        const Instant reset = world.network.time();
        if (client_forgets) world.client_nat->forget();
        if (gateway_forgets) world.gateway_nat->forget();
        world.run(8s, rate);
        world.run(1s);
        const std::string what = "client " + pair.client.to_string() + "; gateway " + pair.gateway.to_string() + "; " +
                                 std::to_string(rate) + "/s, phase " + std::to_string(phase);
        // What was on its way in the moment of the reset may be gone without anybody noticing: a mapping that keeps
        // its port is made again by the next answer.
        std::uint32_t in_flight = first;
        while (in_flight < world.sent && world.sent_at[in_flight] < reset + 30ms) ++in_flight;
        EXPECT_LE(world.lost_up(first), 1u) << what;
        EXPECT_EQ(world.lost_up(in_flight), 0u) << what;
        EXPECT_LE(world.longest_delay(first), 1s) << what;
        // Afterwards everything works both ways.
        const std::uint32_t later = world.sent;
        world.run(2s, rate);
        world.run(500ms);
        EXPECT_EQ(world.lost_echoes(later), 0u) << what;
        EXPECT_EQ(world.client->requests, 1u) << what;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(WhoForgets, Resets,
                         ::testing::Values(std::tuple{true, false}, std::tuple{false, true}, std::tuple{true, true}));

TEST(Healing, IdleTunnelAfterAReset) {
  for (const Healing& pair : healing_pairs()) {
    WorldConfig config;
    config.client_nat = pair.client;
    config.gateway_nat = pair.gateway;
    World world{config};
    world.run(1s);
    world.run(3s, 10);
    world.run(100s);  // idle is after two minutes; keepalives hold the mappings
    world.run(100s);
    world.client_nat->forget();
    world.gateway_nat->forget();
    world.run(10s);
    const std::uint32_t first = world.sent;
    world.run(5s, 50);
    world.run(1s);
    EXPECT_EQ(world.lost_up(first), 0u) << pair.client.to_string() << " / " << pair.gateway.to_string();
    EXPECT_LE(world.longest_delay(first), 1s) << pair.client.to_string() << " / " << pair.gateway.to_string();
  }
}

// trap: paths-13 paths-14
TEST(Healing, RelayRestartIsNotFeltOnDirectPathsAndShortOnRelayedOnes) {
  for (const bool relayed : {false, true}) {
    WorldConfig config;
    config.client_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
    config.gateway_nat = nat(relayed ? Dependence::address_and_port : Dependence::independent,
                             relayed ? Dependence::address_and_port : Dependence::independent);
    World world{config};
    world.run(1s);
    world.run(70s, 50);
    ASSERT_EQ(world.direct(), !relayed);
    // A gateway behind a filtering NAT has to be told of the new relayed address.
    world.introducer->up = relayed;
    const std::uint32_t first = world.sent;
    world.relays[0]->server.restart(world.network.time());
    world.run(5s, 50);
    world.run(1s);
    EXPECT_EQ(world.lost_up(first), 0u);
    EXPECT_LE(world.longest_delay(first), relayed ? 1s : 50ms);
  }
}

// A standby is there for when the primary fails: one that has fallen silent is not left until its relay is asked for a
// sign of life anyway, 25 s after the last.
TEST(Healing, ASilentStandbysRelayIsAskedAtOnce) {
  World world{{}};
  world.run(1s);
  world.run(10s, 50);
  ASSERT_TRUE(world.direct());
  TurnServer& relay = world.relays[0]->server;
  relay.restart(world.network.time());
  const auto before = relay.statistics().allocations;
  world.run(6s, 50);
  EXPECT_EQ(relay.statistics().allocations, before + 1);
}

TEST(Healing, SecondRelayTakesOverWhenTheFirstDisappears) {
  WorldConfig config;
  config.relays = 2;
  config.client_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
  config.gateway_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
  World world{config};
  world.run(1s);
  world.run(10s, 50);
  ASSERT_FALSE(world.direct());
  const std::uint32_t first = world.sent;
  const std::uint32_t used = world.client->primary()->relay;
  for (auto& relay : world.relays)
    if (used == 1 + static_cast<std::uint32_t>(&relay - world.relays.data())) relay->up = false;
  world.run(5s, 50);
  world.run(1s);
  EXPECT_NE(world.client->primary()->relay, used);
  EXPECT_EQ(world.lost_up(first), 0u);
  EXPECT_LE(world.longest_delay(first), 1s);
}

// trap: paths-19 - to another network, with the same relay moved by its ticket, or without mobility
TEST(Healing, ClientRoams) {
  for (const bool mobility : {true, false})
    for (const bool symmetric : {true, false}) {
      WorldConfig config;
      config.relay_mobility = mobility;
      const Dependence kind = symmetric ? Dependence::address_and_port : Dependence::independent;
      config.client_nat = nat(kind, Dependence::address_and_port);
      config.gateway_nat = nat(kind, Dependence::address_and_port);
      World world{config};
      world.run(1s);
      world.run(10s, 50);
      // With a ticket the relayed address stays and nobody is asked; a new one the gateway has to be told of.
      world.introducer->up = !mobility;
      const std::uint32_t first = world.sent;
      NatBox& elsewhere = world.network.add_nat(*config.client_nat, {World::address("198.51.100.200")});
      world.network.detach(*world.client);
      world.network.attach(*world.client, World::address("10.2.0.9"), &elsewhere, world.client_link);
      world.client->roam({Endpoint{World::address("10.2.0.9"), 41000}}, world.network.now());
      world.run(5s, 50);
      world.run(1s);
      EXPECT_EQ(world.lost_up(first), 0u) << "mobility " << mobility << ", symmetric " << symmetric;
      EXPECT_LE(world.longest_delay(first), 1s) << "mobility " << mobility << ", symmetric " << symmetric;
    }
}

// A mapping that lives 30 minutes, whatever passes: the failure that started it all. Twelve hours of it.
TEST(Healing, EveryMappingDiesThirtyMinutesAfterItsCreation) {
  WorldConfig config;
  config.client_nat = nat(Dependence::independent, Dependence::address_and_port);
  config.gateway_nat = nat(Dependence::address_and_port, Dependence::address_and_port);
  World world{config};
  world.run(1s);
  world.run(2s, 10);
  for (int minute = 0; minute < 12 * 60; ++minute) {
    world.client_nat->forget_older_than(30min, world.network.time());
    world.gateway_nat->forget_older_than(30min, world.network.time());
    // A little traffic every ten minutes, idle between.
    world.run(minute % 10 == 0 ? 5s : 0s, 10);
    world.run(minute % 10 == 0 ? 55s : 60s);
  }
  EXPECT_EQ(world.lost_up(), 0u);
  EXPECT_LE(world.longest_delay(0), 1s);
  EXPECT_LE(world.client->requests, 12u * 4);
}

// trap: paths-20
TEST(Healing, SuspendAndClockSteps) {
  WorldConfig config;
  config.client_nat = nat(Dependence::independent, Dependence::address_and_port);
  World world{config};
  world.run(1s);
  world.run(5s, 50);
  // The clock of the machine stops while it sleeps for ten minutes; the NAT has forgotten meanwhile.
  world.client_nat->forget();
  world.network.step_wall(10min);
  const std::uint32_t first = world.sent;
  world.run(3s, 50);
  world.network.step_wall(-1h);
  world.run(3s, 50);
  world.run(1s);
  EXPECT_EQ(world.lost_up(first), 0u);
  EXPECT_LE(world.longest_delay(first), 1s);
}

// Any network, any order of mishaps: once the network has been stable for a while, everything arrives, and nobody had
// to be asked. The seed that fails is printed and gives the same run again.
void run_schedule(std::uint64_t seed) {
  SeededRandom dice{seed};
  const auto any_nat = [&]() -> std::optional<NatBehaviour> {
    if (dice.chance(150)) return std::nullopt;
    NatBehaviour out = nat(kDependences[dice.below(3)], kDependences[dice.below(3)], dice.chance(500));
    out.timeout = std::chrono::seconds{30 + dice.below(270)};
    out.refreshed_by_inbound = dice.chance(500);
    out.rejects = dice.chance(500);
    out.inbound_takes_port = dice.chance(500);
    return out;
  };
  WorldConfig config;
  config.seed = seed;
  config.client_nat = any_nat();
  config.gateway_nat = any_nat();
  config.client_latency = std::chrono::milliseconds{1 + dice.below(40)};
  config.gateway_latency = std::chrono::milliseconds{1 + dice.below(40)};
  config.relay_latency = std::chrono::milliseconds{1 + dice.below(20)};
  config.jitter = std::chrono::milliseconds{dice.below(10)};
  config.duplicate_permille = dice.chance(300) ? dice.below(50) : 0;
  config.relays = 1 + dice.below(3);
  config.relay_mobility = dice.chance(500);
  World world{config};
  world.run(1s);
  world.run(3s, 10);
  ASSERT_TRUE(world.client->session()) << "seed " << seed;

  for (int step = 0; step < 6; ++step) {
    switch (dice.below(9)) {
      case 0:
        if (world.client_nat != nullptr) world.client_nat->forget();
        break;
      case 1:
        if (world.gateway_nat != nullptr) world.gateway_nat->forget();
        break;
      case 2:
        world.relays[dice.below(config.relays)]->server.restart(world.network.time());
        break;
      case 3:
        world.introducer->up = dice.chance(500);
        break;
      case 4: {
        const auto outside = IpAddress::v4(0xc63364c8 + static_cast<std::uint32_t>(step));
        const auto inside = IpAddress::v4(0x0a020001 + static_cast<std::uint32_t>(step));
        world.client_nat = config.client_nat ? &world.network.add_nat(*config.client_nat, {outside}) : nullptr;
        world.network.detach(*world.client);
        const IpAddress own = config.client_nat ? inside : outside;
        world.network.attach(*world.client, own, world.client_nat, world.client_link);
        world.client->roam({Endpoint{own, 41000}}, world.network.now());
        break;
      }
      case 5:
        world.network.link(*world.client).loss_permille = dice.below(80);
        break;
      case 6:
        world.network.link(*world.client).up = false;
        world.run(std::chrono::milliseconds{dice.below(4000)}, 10);
        world.network.link(*world.client).up = true;
        break;
      case 7:
        world.network.step_wall(std::chrono::seconds{static_cast<int>(dice.below(7200)) - 3600});
        break;
      default:
        world.run(std::chrono::seconds{dice.below(30)});
        break;
    }
    world.run(std::chrono::milliseconds{dice.below(3000)}, 1 + dice.below(60));
  }
  // Stable from here on.
  world.introducer->up = true;
  world.network.link(*world.client).loss_permille = 0;
  world.run(8s, 5);
  const std::uint32_t first = world.sent;
  world.run(3s, 50);
  world.run(1s);
  EXPECT_EQ(world.lost_up(first), 0u) << "seed " << seed;
  EXPECT_EQ(world.lost_echoes(first), 0u) << "seed " << seed;
  EXPECT_LE(world.client->requests, 10u) << "seed " << seed;
  EXPECT_EQ(world.client->echoed.size() + world.lost_echoes(), world.sent) << "seed " << seed;
}

TEST(Random, TwoHundredSchedules) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) run_schedule(seed);
}

}  // namespace
}  // namespace penstock::model
