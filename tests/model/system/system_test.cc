// The whole system in chosen networks: which NAT kinds allow a direct path, what every row of the healing table
// promises, and that a run depends on nothing but its seed. Random schedules are soak's.
#include <gtest/gtest.h>

#include "tests/model/system/run_seeds.h"
#include "tests/model/system/system.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

NatBehaviour nat(Dependence mapping, Dependence filtering, PortChoice ports) {
  NatBehaviour out;
  out.mapping = mapping;
  out.filtering = filtering;
  out.ports = ports;
  return out;
}

constexpr Duration kRelayLatency = 2ms;
Scenario one_of_each(std::optional<NatBehaviour> client, std::optional<NatBehaviour> gateway) {
  Scenario out;
  out.seed = 1;
  out.length = 1h;
  out.networks = {{client, 1, false}};
  out.clients = {{0, 5ms}};
  out.gateways = {{0, gateway, 1, false, 5ms}};
  out.relay_latency = kRelayLatency;
  out.flows = {{0, 0, 0, false}};
  return out;
}

// The application sends `rate` packets a second for that long.
void use(System& system, Duration how_long, unsigned rate, unsigned flow = 0) {
  const Instant from = system.network.time();
  for (Duration at{}; at < how_long; at += Duration{1s} / rate)
    system.network.schedule(from + at, [&system, flow] { system.send(flow); }, system.clients[0].get());
  system.run_for(how_long);
}

std::size_t lost(const System& system, std::size_t first = 0) {
  std::size_t out = 0;
  const auto& requests = system.ledger.flows[0].requests;
  for (std::size_t n = first; n < requests.size(); ++n) out += requests[n].arrived == kNever ? 1 : 0;
  return out;
}
std::size_t lost_echoes(const System& system, std::size_t first = 0) {
  std::size_t out = 0;
  const auto& requests = system.ledger.flows[0].requests;
  for (std::size_t n = first; n < requests.size(); ++n) out += requests[n].echoed == kNever ? 1 : 0;
  return out;
}
bool near(const std::vector<Instant>& times, Instant at) {
  return std::any_of(times.begin(), times.end(), [&](Instant t) { return t > at - 1s && t < at + 1s; });
}
Duration longest(const System& system, std::size_t first = 0) {
  Duration out{};
  const auto& requests = system.ledger.flows[0].requests;
  for (std::size_t n = first; n < requests.size(); ++n)
    if (requests[n].arrived != kNever) out = std::max(out, requests[n].arrived - requests[n].sent);
  return out;
}

// Whether others can know beforehand where packets of this NAT's inside will come from: one mapping for all, or a port
// that is kept (symmetric in name, predictable in fact).
bool fixed(const NatBehaviour& nat) {
  return nat.mapping == Dependence::independent || nat.ports == PortChoice::preserving;
}

bool direct_is_possible(const NatBehaviour& client, const NatBehaviour& gateway) {
  using enum Dependence;
  if (fixed(client) && fixed(gateway)) return true;
  // One end shows another port than it told: the other must let an unknown port of a known address in.
  if (fixed(client)) return client.filtering != address_and_port;
  if (fixed(gateway)) return gateway.filtering != address_and_port;
  // Neither is where it said, save on the mapping made towards the STUN server: somebody must accept anything there,
  // and the other end must accept that the answer comes from another port.
  return (gateway.filtering == independent && client.filtering != address_and_port) ||
         (client.filtering == independent && gateway.filtering != address_and_port);
}

class Matrix : public ::testing::TestWithParam<std::tuple<PortChoice, PortChoice>> {};

TEST_P(Matrix, DirectWhereRfc4787AllowsItAndRelayedElsewhere) {
  const auto [client_ports, gateway_ports] = GetParam();
  for (const Dependence client_mapping : kDependences)
    for (const Dependence client_filtering : kDependences)
      for (const Dependence gateway_mapping : kDependences)
        for (const Dependence gateway_filtering : kDependences) {
          const auto client = nat(client_mapping, client_filtering, client_ports);
          const auto gateway = nat(gateway_mapping, gateway_filtering, gateway_ports);
          System system{one_of_each(client, gateway)};
          const std::string cell = "client: " + client.to_string() + "; gateway: " + gateway.to_string();
          ASSERT_TRUE(system.start()) << cell;
          use(system, 6s, 10);
          system.run_for(500ms);
          EXPECT_EQ(system.direct(0), direct_is_possible(client, gateway)) << cell;
          EXPECT_EQ(lost(system), 0u) << cell;
          EXPECT_EQ(lost_echoes(system), 0u) << cell;
          EXPECT_TRUE(system.ledger.violations.empty()) << cell << ": " << system.ledger.violations.front();
        }
}

INSTANTIATE_TEST_SUITE_P(Ports, Matrix,
                         ::testing::Combine(::testing::Values(PortChoice::random, PortChoice::preserving),
                                            ::testing::Values(PortChoice::random, PortChoice::preserving)));

// Each mapping dies 30 minutes after its creation, whatever passes: the failure that started it all. A day of it.
TEST(Healing, ADayOfMappingsThatDieAfterHalfAnHour) {
  auto client = nat(Dependence::independent, Dependence::address_and_port, PortChoice::random);
  auto gateway = nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random);
  client.lifetime = gateway.lifetime = 30min;
  System system{one_of_each(client, gateway)};
  ASSERT_TRUE(system.start());
  for (int hour = 0; hour < 24; ++hour) {
    for (int minute = 0; minute < 60; minute += 10) {
      use(system, hour % 6 == 0 ? 10min : 20s, 2);
      if (hour % 6 != 0) system.run_for(10min - 20s);
    }
  }
  system.run_for(2s);
  EXPECT_EQ(lost(system), 0u);
  EXPECT_EQ(lost_echoes(system), 0u);
  // paths.md: 300 ms + 4 RTT where one end's mapping died; 1 s where both died at once, which the first death prepares:
  // what is opened anew at both ends because of it dies at the same time half an hour later.
  for (const Fate& fate : system.ledger.flows[0].requests) {
    const bool both =
        near(system.network_nats[0]->deaths(), fate.sent) && near(system.gateway_nats[0]->deaths(), fate.sent);
    ASSERT_LE(fate.arrived - fate.sent, both ? 1s : 300ms + 4 * 24ms) << (fate.sent.time_since_epoch() / 1ms);
  }
  EXPECT_GE(system.network_nats[0]->deaths().size(), 24u);
  EXPECT_GE(system.gateway_nats[0]->deaths().size(), 24u);
  EXPECT_EQ(system.clients[0]->queries(), 1u);
}

// paths.md: killed, stopped or restarted, the control process is not missed.
TEST(Healing, TheControlProcessIsNotMissed) {
  System system{one_of_each(nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random),
                            nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random))};
  ASSERT_TRUE(system.start());
  use(system, 3s, 20);
  system.gateways[0]->kill_control();
  use(system, 20s, 20);
  system.gateways[0]->start_control();
  use(system, 5s, 20);
  system.gateways[0]->stop_control();
  use(system, 30s, 20);
  system.gateways[0]->continue_control();
  use(system, 5s, 20);
  system.run_for(1s);
  EXPECT_EQ(lost(system), 0u);
  EXPECT_EQ(lost_echoes(system), 0u);
  EXPECT_LE(longest(system, 60), 100ms);
}

TEST(Healing, ThePortalMayBeAwayForAnHour) {
  System system{one_of_each(nat(Dependence::independent, Dependence::address, PortChoice::random), std::nullopt)};
  ASSERT_TRUE(system.start());
  use(system, 3s, 10);
  system.portal->kill();
  for (int minute = 0; minute < 60; minute += 5) {
    use(system, 10s, 10);
    system.run_for(5min - 10s);
  }
  system.portal->start();
  use(system, 5s, 10);
  system.run_for(1s);
  EXPECT_EQ(lost(system), 0u);
  EXPECT_EQ(lost_echoes(system), 0u);
}

// Everything the gateway's machine knew is gone when it is back. A client that had nothing to say meanwhile goes on as
// if nothing had been, also with names that it believes the gateway to know. trap: flow-10, flow-4
TEST(Healing, AnIdleClientNeedsNoQueryAfterItsGatewayWasOff) {
  System system{one_of_each(nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::preserving),
                            nat(Dependence::address, Dependence::address_and_port, PortChoice::random))};
  ASSERT_TRUE(system.start());
  use(system, 3s, 10);
  system.gateways[0]->power_off();
  system.run_for(8s);
  system.gateways[0]->power_on();
  system.run_for(30s);
  const std::size_t before = system.ledger.flows[0].requests.size();
  use(system, 10s, 10);
  system.run_for(2s);
  EXPECT_EQ(lost(system, before), 0u);
  EXPECT_EQ(lost_echoes(system, before), 0u);
  EXPECT_LE(longest(system, before), 1500ms);
  EXPECT_EQ(system.clients[0]->queries(), 1u);
}

// Both NATs forget, one a moment before the other, as devices do that one failure restarts. paths.md: nothing is lost,
// and nothing takes longer than a second.
TEST(Healing, BothNatsForgetOneAfterTheOther) {
  using enum Dependence;
  const NatBehaviour kinds[] = {nat(address_and_port, address_and_port, PortChoice::preserving),
                                nat(independent, address_and_port, PortChoice::random),
                                nat(address_and_port, address_and_port, PortChoice::random)};
  for (const NatBehaviour& client_kind : kinds)
    for (const NatBehaviour& gateway_kind : kinds)
      for (const bool rejects : {false, true}) {
        NatBehaviour kind[] = {client_kind, gateway_kind};
        for (NatBehaviour& k : kind) k.rejects = k.inbound_takes_port = rejects;
        for (const int first : {0, 1}) {
          System system{one_of_each(kind[0], kind[1])};
          ASSERT_TRUE(system.start());
          NatBox* const boxes[] = {system.network_nats[0], system.gateway_nats[0]};
          const auto forget = [&](int which) {
            ++kind[which].shift;
            boxes[which]->set_behaviour(kind[which]);
            boxes[which]->forget();
          };
          use(system, 12s, 200);
          for (auto apart = 0ms; apart < 400ms; apart += 21ms) {
            const std::size_t before = system.ledger.flows[0].requests.size();
            forget(first);
            use(system, apart, 200);
            forget(1 - first);
            use(system, 5s + apart % 60ms, 200);
            system.run_for(500ms);
            const std::string what = "client: " + kind[0].to_string() + "; gateway: " + kind[1].to_string() +
                                     (first == 0 ? "; the client's " : "; the gateway's ") +
                                     std::to_string(apart / 1ms) + " ms earlier";
            EXPECT_EQ(lost(system, before), 0u) << what;
            EXPECT_EQ(lost_echoes(system, before), 0u) << what;
            EXPECT_LE(longest(system, before), 1s) << what;
          }
          EXPECT_TRUE(system.ledger.violations.empty()) << system.ledger.violations.front();
        }
      }
}

// A relay whose queue holds few packets: both ends send again what is in doubt at once, and copies are lost as well.
// What each says has arrived shows the other what has not.
TEST(Healing, ARelayThatRunsOverLosesNothing) {
  using enum Dependence;
  const auto symmetric = nat(address_and_port, address_and_port, PortChoice::random);
  const auto preserving = nat(address_and_port, address_and_port, PortChoice::preserving);
  for (const NatBehaviour& kind : {preserving, symmetric}) {
    NatBehaviour changing = kind;
    System system{one_of_each(kind, kind)};
    ASSERT_TRUE(system.start());
    system.network.link(*system.relays[0]).rate = 500'000;
    system.network.link(*system.relays[0]).queue = 6'000;
    use(system, 12s, 400);
    system.run_for(100ms);
    ASSERT_EQ(lost(system), 0u);
    for (int round = 0; round < 10; ++round) {
      const std::size_t before = system.ledger.flows[0].requests.size();
      ++changing.shift;
      for (NatBox* box : {system.network_nats[0], system.gateway_nats[0]}) {
        box->set_behaviour(changing);
        box->forget();
      }
      use(system, 5s + round * 7ms, 400);
      system.run_for(500ms);
      EXPECT_EQ(lost(system, before), 0u) << kind.to_string() << ", round " << round;
      EXPECT_EQ(lost_echoes(system, before), 0u) << kind.to_string() << ", round " << round;
      EXPECT_LE(longest(system, before), 1s) << kind.to_string() << ", round " << round;
    }
  }
}

// Requests that the gateway gets late, because the client sent them again, are answered before the path that the answer
// takes is known to have failed: the answers do not wait behind all that the LAN sent meanwhile.
TEST(Healing, AnAnswerDoesNotWaitBehindWhatIsSentAgain) {
  const auto kind = nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::preserving);
  NatBehaviour clashing = kind;  // what the client sends keeps the gateway from getting its port again
  clashing.inbound_takes_port = true;
  for (int phase = 0; phase < 6; ++phase) {
    Duration longest_answer[2]{};
    for (const unsigned pushes : {0U, 1U}) {
      System system{one_of_each(kind, kind)};
      ASSERT_TRUE(system.start());
      use(system, 5s + phase * 8ms, 500);
      ASSERT_TRUE(system.direct(0));
      system.gateway_nats[0]->set_behaviour(clashing);
      system.gateway_nats[0]->forget_towards(system.network_nats[0]->external().front());
      const Instant now = system.network.time();
      const std::size_t before = system.ledger.flows[0].requests.size();
      for (Duration at{}; at < 1s && pushes != 0; at += 1ms)
        system.network.schedule(now + at, [&system] { system.push(0); }, system.gateways[0].get());
      use(system, 2s, 500);
      system.run_for(500ms);
      EXPECT_EQ(lost_echoes(system, before), 0u) << "phase " << phase;
      const auto& requests = system.ledger.flows[0].requests;
      for (std::size_t n = before; n < requests.size(); ++n)
        if (requests[n].arrived - requests[n].sent > 100ms)
          longest_answer[pushes] = std::max(longest_answer[pushes], requests[n].echoed - requests[n].arrived);
    }
    EXPECT_GT(longest_answer[0], 0ms) << "nothing was sent again in phase " << phase;
    EXPECT_LE(longest_answer[1], longest_answer[0] + 15ms) << "phase " << phase;
  }
}

// Between two NATs that map by address and port an answer to a probe comes from a new port each time. trap: paths-17
TEST(Limits, AnIdleTunnelBetweenSymmetricNatsIsQuiet) {
  for (const Dependence filtering : kDependences) {
    const auto client = nat(Dependence::address_and_port, Dependence::independent, PortChoice::random);
    const auto gateway = nat(Dependence::address_and_port, filtering, PortChoice::sequential);
    System system{one_of_each(client, gateway)};
    ASSERT_TRUE(system.start());
    use(system, 5s, 10);
    system.run_for(5s);
    const std::uint64_t before = system.clients[0]->datagrams();
    system.run_for(60s);
    EXPECT_LE(system.clients[0]->datagrams() - before, 60 * 15U) << gateway.to_string();
    EXPECT_LE(system.network_nats[0]->mappings(), 100u) << gateway.to_string();
    EXPECT_EQ(lost(system), 0u);
  }
}

// Neither end can guess the other's port, and a relay lets in only whom it was told of. The client hears whom the portal
// asks, so the gateway's punch finds the relay open and tells it by which port to answer before the grant comes.
TEST(FirstPacket, BetweenSymmetricNatsTakesNoLongerThanItsMessages) {
  const auto symmetric = nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random);
  for (const Duration way : {3ms, 15ms, 32ms, 60ms, 140ms, 300ms}) {
    const auto slow = [way](Link& link) { link.latency = way; };
    System system{one_of_each(symmetric, symmetric)};
    ASSERT_TRUE(system.start());
    system.network.for_each_link(*system.clients[0], slow);
    system.network.for_each_link(*system.gateways[0], slow);
    system.run_for(3s);
    use(system, 3s, 20);
    system.run_for(2s);
    EXPECT_EQ(lost(system), 0u);
    // By the portal and back, a handshake and the packet by the relay: no more than docs/healing.md allows.
    EXPECT_LE(longest(system), 4 * (way + kPortalLatency) + 6 * (way + kRelayLatency) + 5ms) << way / 1ms << " ms";
  }
}

// The gateway's NAT refuses the only copy that could have passed; the next punch opens it, and tells so.
TEST(FirstPacket, APunchBringsTheInitiationAgain) {
  const auto client = nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random);
  const auto gateway = nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::preserving);
  const IpAddress relay = *IpAddress::parse("198.51.100.20");
  int late = 0;
  const Duration way = 3ms, until_initiation = 4 * (way + kPortalLatency) + 2 * (way + kRelayLatency);
  const Duration messages = until_initiation + 4 * (way + kRelayLatency);
  Scenario plan = one_of_each(client, gateway);
  plan.clients[0].latency = plan.gateways[0].latency = way;
  for (Duration at{}; at < until_initiation; at += 1ms) {
    System system{plan};
    ASSERT_TRUE(system.start());
    system.run_for(3s);
    system.network.schedule(system.network.time() + at, [&] { system.gateway_nats[0]->forget_towards(relay); });
    use(system, 3s, 20);
    EXPECT_EQ(lost(system), 0u) << at / 1ms;
    EXPECT_LE(longest(system), messages + 100ms) << at / 1ms;
    late += longest(system) > messages + 20ms ? 1 : 0;
  }
  EXPECT_GT(late, 0) << "nothing was refused";
}

// A client that was killed cannot give its relay's allocation back; it comes back by another port and has a new one.
TEST(Healing, AClientThatWasKilledComesBackThroughItsRelay) {
  System system{one_of_each(nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random),
                            nat(Dependence::address_and_port, Dependence::address_and_port, PortChoice::random))};
  ASSERT_TRUE(system.start());
  use(system, 3s, 10);
  for (int life = 0; life < 5; ++life) {
    system.clients[0]->kill();
    system.run_for(500ms);
    system.clients[0]->start();
    system.run_for(1s);
    const std::size_t before = system.ledger.flows[0].requests.size();
    use(system, 5s, 10);
    system.run_for(1s);
    EXPECT_EQ(lost(system, before), 0u) << "life " << life;
    EXPECT_LE(longest(system, before), 3s) << "life " << life;
  }
  EXPECT_EQ(system.clients[0]->queries(), 1u);
}

// A failure can be studied only if it can be had again.
TEST(Seeds, TheSameSeedGivesTheSameRun) {
  const Scenario plan = make_scenario(4711, 60s);
  const Outcome once = play_apart(plan, 100), again = play_apart(plan, 100);
  EXPECT_FALSE(once.digest.empty());
  EXPECT_EQ(once.digest, again.digest);
  Scenario other = plan;
  other.seed = 4712;
  EXPECT_NE(play_apart(other, 100).digest, once.digest);
}

// A search that finds nothing must be able to find something: a link of three seconds, which the reference model does
// not take for a mishap.
TEST(Seeds, AFailureIsFoundAndCutDown) {
  Scenario plan = make_scenario(1, 60s);
  plan.events.clear();
  for (unsigned i = 0; i < 8; ++i) plan.events.push_back({7s + i * 1s, Mishap::client_link_doubles, 0, 0, {}, 10});
  plan.events[4] = {11s, Mishap::client_link_slow, 0, 0, {}, 3000};
  const Minimised least = minimise(plan, 40, 100);
  EXPECT_EQ(least.kept, std::vector<unsigned>{4u}) << least.outcome.violation;
}

}  // namespace
}  // namespace penstock::model
