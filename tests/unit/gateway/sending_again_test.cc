// The gateway sends again what a failing path has lost: real workers, slow thread and a client, in virtual time.
#include <gtest/gtest.h>

#include <set>

#include "dataplane/core/wireguard/probe.h"
#include "dataplane/gateway/resend.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

const Endpoint kRelay{ip("198.51.100.20"), 49152};
const Endpoint kMovedTo{ip("198.51.100.130"), 61000};

std::uint32_t number_of(Bytes bytes) {
  std::uint32_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  return number;
}

Octets probe(std::uint32_t switch_sequence, std::uint32_t rtt_us = 2000) {
  static std::uint64_t id = 0;
  wireguard::Probe out;
  out.id = ++id;
  out.switch_sequence = switch_sequence;
  out.rtt_us = rtt_us;
  const auto packet = wireguard::make_probe_packet(out, wireguard::ControlDirection::to_gateway);
  return {packet.begin(), packet.end()};
}

// The same, with what has arrived.
Octets reporting(Bytes packet, const wireguard::ReceptionReport& report) {
  auto said = *wireguard::parse_probe(wireguard::parse_control(packet)->payload);
  said.report = true;
  Octets out = wireguard::make_sized_probe_packet(said, wireguard::ControlDirection::to_gateway,
                                                  wireguard::kProbePacketSize + wireguard::kReportSize);
  wireguard::write_report(MutableBytes{out}.last(wireguard::kReportSize), report);
  return out;
}

// A client with a flow from the LAN to it: `speak` sends the next numbered packet.
struct Flow : World {
  explicit Flow(const GatewayOptions& options = {}) : World(options) {
    client.connect();
    client.more_addresses = {kRelay, kMovedTo};
    client.send(udp_packet({client.tunnel_v4, 9}, {kServer4, 53}, text("open")));
    gateway.run(20ms);
    port = view_as<UdpHeader>(Bytes{server.received.back()}.subspan(20))->source_port.host();
    client.received.clear();
  }
  void speak(std::size_t size = 100) {
    Octets payload(size, 0);
    std::memcpy(payload.data(), &spoken, sizeof spoken);
    ++spoken;
    gateway.receive_from(server, lan, udp_packet({kServer4, 53}, {ip("203.0.113.1"), port}, payload));
  }
  // A busy client for `time`, probing from where it is; the LAN speaks every `gap`.
  void go_on(Duration time, Duration gap, bool probes = true) {
    Duration since_probe = 100ms;
    for (Duration passed{}; passed < time; passed += gap) {
      if (probes && since_probe >= 100ms) {
        const Octets plain = probe(++sequence);
        client.send_from(at, reports ? reporting(plain, client.reception()) : plain);
        if (relay_too) client.send_from(kRelay, probe(0));
        since_probe = 0ms;
      }
      speak();
      gateway.run(gap);
      since_probe += gap;
    }
  }
  [[nodiscard]] std::set<std::uint32_t> heard() const {
    std::set<std::uint32_t> out;
    for (const Octets& inner : client.received)
      if (inner.size() == 128) out.insert(number_of(Bytes{inner}.subspan(28)));
    return out;
  }
  [[nodiscard]] std::size_t lost() const { return spoken - heard().size(); }
  [[nodiscard]] std::uint64_t resent() const {
    std::uint64_t sum = 0;
    for (const auto& worker : gateway.workers) sum += worker->counters.resent_packets;
    return sum;
  }

  std::uint16_t port = 0;
  std::uint32_t spoken = 0;
  std::uint32_t sequence = 0;
  Endpoint at = client.address;
  bool relay_too = true;
  bool reports = false;
};

TEST(SendingAgain, CostsNothingWhileAllIsWell) {
  Flow flow;
  flow.go_on(3s, 1ms);
  flow.gateway.run(100ms);
  EXPECT_EQ(flow.lost(), 0U);
  EXPECT_EQ(flow.resent(), 0U);
  EXPECT_GT(flow.gateway.resend[0]->packets(flow.client.peer), 0U);
}

// The client's NAT forgot: its next probe comes from another port, and what went to the old one is lost.
TEST(SendingAgain, NothingIsLostWhenTheClientsMappingMoves) {
  for (const Duration gap : {1ms, 10ms, 100ms}) {
    Flow flow;
    flow.go_on(2s, gap);
    flow.client.dead = {flow.client.address};
    for (Duration passed{}; passed < 90ms; passed += gap) {
      flow.speak();
      flow.gateway.run(gap);
    }
    flow.at = kMovedTo;
    flow.go_on(1s, gap);
    EXPECT_EQ(flow.lost(), 0U) << gap.count();
    EXPECT_GT(flow.resent(), 0U);
    EXPECT_LE(flow.resent(), 250U) << "the gap and a round trip or two";
  }
}

// An older client does not say how long a round trip is: then much more may have been under way.
TEST(SendingAgain, WithoutARoundTripTimeMoreIsInDoubt) {
  Flow flow;
  for (int i = 0; i < 20; ++i) {
    flow.client.send_from(flow.at, probe(++flow.sequence, 0));
    flow.go_on(100ms, 1ms, false);
  }
  flow.client.dead = {flow.client.address};
  flow.go_on(90ms, 1ms, false);
  flow.client.send_from(kMovedTo, probe(++flow.sequence, 0));
  flow.go_on(120ms, 1ms, false);  // as fast as a busy relay can take them
  EXPECT_EQ(flow.lost(), 0U);
  EXPECT_GE(flow.resent(), 490U);
}

// What the client says has arrived is not sent again ...
TEST(SendingAgain, WhatIsReportedToHaveArrivedIsLeftOut) {
  for (const bool reports : {false, true}) {
    Flow flow;
    flow.reports = reports;
    flow.go_on(2s, 1ms);
    flow.client.dead = {flow.client.address};
    flow.go_on(20ms, 1ms, false);
    flow.at = kMovedTo;
    flow.go_on(1s, 1ms);
    EXPECT_EQ(flow.lost(), 0U);
    EXPECT_GE(flow.resent(), 20U);
    if (reports) {
      EXPECT_LE(flow.resent(), 20U + 10U) << "what was under way, or was sent by what the worker still knew";
    } else {
      EXPECT_GE(flow.resent(), 100U) << "all since the probe before";
    }
  }
}

// ... and copies that are lost on the way, as where a relay's queue runs over, are sent once more.
TEST(SendingAgain, CopiesThatAreLostAreSentOnceMore) {
  for (const Duration gap : {1ms, 10ms}) {
    Flow flow;
    flow.reports = true;
    flow.go_on(2s, gap);
    flow.client.dead = {flow.client.address};
    flow.go_on(90ms, gap, false);
    unsigned seen = 0;
    flow.client.loses = [&](Bytes datagram) { return datagram.size() > 120 && ++seen % 3 != 0; };
    flow.at = kMovedTo;
    flow.go_on(150ms, gap);
    EXPECT_GT(flow.lost(), 0U) << "nothing to repair: this tests nothing";
    flow.client.loses = nullptr;
    flow.go_on(600ms, gap);
    flow.gateway.run(100ms);
    EXPECT_EQ(flow.lost(), 0U);
    // Nothing is missed any more: nothing is sent again.
    const std::uint64_t before = flow.resent();
    flow.go_on(2s, gap);
    EXPECT_EQ(flow.resent(), before);
  }
}

// What never arrives, as it is too long for the way, is not sent for ever.
TEST(SendingAgain, WhatNeverArrivesIsGivenUp) {
  Flow flow;
  flow.reports = true;
  flow.go_on(1s, 10ms);
  flow.client.loses = [&](Bytes datagram) { return datagram.size() > 1000; };
  for (int i = 0; i < 10; ++i) flow.speak(1200);
  flow.go_on(5s, 10ms);
  EXPECT_EQ(flow.lost(), 10U);
  EXPECT_GE(flow.resent(), 10U);
  EXPECT_LE(flow.resent(), 80U);
}

// Each order makes a worker look through what it keeps: a client that reports all the time is not followed in that.
TEST(SendingAgain, ManyReportsMakeFewOrders) {
  Flow flow;
  flow.go_on(1s, 10ms);
  bool lost = false;
  flow.client.loses = [&](Bytes datagram) { return datagram.size() > 120 && !std::exchange(lost, true); };
  flow.go_on(1s, 10ms);
  ASSERT_FALSE(flow.client.reception().complete()) << "this tests nothing";
  const std::size_t before = flow.gateway.resend_orders;
  for (int i = 0; i < 1000; ++i) {
    flow.client.send_from(flow.at, reporting(probe(++flow.sequence), flow.client.reception()));
    flow.gateway.run(100us);
  }
  EXPECT_GE(flow.gateway.resend_orders - before, 1U);
  EXPECT_LE(flow.gateway.resend_orders - before, 6U);
}

// The direct path dies both ways: silence. Copies go over the relay until the client says where it is.
TEST(SendingAgain, NothingIsLostWhenABusyPeerFallsSilent) {
  Flow flow;
  flow.go_on(3s, 1ms);
  flow.client.dead = {flow.client.address};
  flow.go_on(400ms, 1ms, false);
  EXPECT_EQ(flow.lost(), 0U) << "300 ms and no round trip in this network";
  // Over the relay in time although no probe has come.
  flow.go_on(500ms, 1ms, false);
  EXPECT_EQ(flow.lost(), 0U);
  flow.at = kRelay;
  flow.go_on(1s, 1ms);
  flow.gateway.run(100ms);
  EXPECT_EQ(flow.lost(), 0U);
  // The relay is the primary now: no more copies.
  const std::uint64_t before = flow.resent();
  flow.go_on(3s, 1ms);
  EXPECT_EQ(flow.resent(), before);
}

TEST(SendingAgain, StopsAfterTwoSecondsWhenNobodyAnswers) {
  Flow flow;
  flow.go_on(3s, 10ms);
  flow.client.dead = {flow.client.address, kRelay, kMovedTo};
  flow.go_on(3s, 10ms, false);
  const std::uint64_t before = flow.resent();
  EXPECT_GT(before, 100U);
  EXPECT_LE(before, 400U);
  flow.go_on(3s, 10ms, false);
  EXPECT_EQ(flow.resent(), before);
}

// Late probes alone are no dead path (paths.md: "Late probes under overload must not be taken for loss").
TEST(SendingAgain, LateProbesOfAClientWhoseDataComesAreNoSilence) {
  Flow flow;
  flow.go_on(3s, 10ms);
  flow.client.keepalives = 0;
  for (int i = 0; i < 45; ++i) {
    flow.client.send(udp_packet({flow.client.tunnel_v4, 9}, {kServer4, 53}, text("up")));
    flow.speak();
    flow.gateway.run(10ms);
  }
  EXPECT_EQ(flow.client.keepalives, 0U);
  EXPECT_EQ(flow.resent(), 0U);
  // Not for ever.
  for (int i = 0; i < 50; ++i) {
    flow.client.send(udp_packet({flow.client.tunnel_v4, 9}, {kServer4, 53}, text("up")));
    flow.gateway.run(10ms);
  }
  EXPECT_GT(flow.client.keepalives, 0U);
}

// ... but what came right after the last probe is no excuse for what has not come since: the path died then.
TEST(SendingAgain, DataOfBeforeThePathDiedExcusesNothing) {
  Flow flow;
  flow.go_on(3s, 10ms);
  flow.client.send_from(flow.at, probe(++flow.sequence));
  const Instant last_probe = flow.gateway.now().monotonic;
  for (int i = 0; i < 10; ++i) {
    flow.client.send(udp_packet({flow.client.tunnel_v4, 9}, {kServer4, 53}, text("up")));
    flow.gateway.run(5ms);
  }
  flow.client.dead = {flow.client.address};
  flow.client.keepalives = 0;
  while (flow.client.keepalives == 0 && flow.gateway.now().monotonic - last_probe < 1s) flow.gateway.run(5ms);
  EXPECT_LE(flow.gateway.now().monotonic - last_probe, 310ms) << "two intervals and 100 ms";
}

// A client that has had no data for two seconds probes every second, and after two minutes every 25 s: no silence.
TEST(SendingAgain, AClientThatBecomesQuietIsNotSilent) {
  Flow flow;
  flow.go_on(3s, 10ms);
  const Instant last_data = flow.gateway.now().monotonic;
  flow.client.keepalives = 0;
  while (flow.gateway.now().monotonic - last_data < 10min) {
    const Duration quiet = flow.gateway.now().monotonic - last_data;
    flow.gateway.run(quiet < 2s ? Duration{100ms} : quiet < 2min ? Duration{1s} : Duration{25s});
    flow.client.send_from(flow.at, probe(++flow.sequence));
  }
  EXPECT_LE(flow.client.keepalives, 600U / 25U) << "WireGuard's own";
  EXPECT_EQ(flow.resent(), 0U);
  EXPECT_EQ(flow.gateway.resend[0]->packets(flow.client.peer), 0U) << "nothing is kept for ever";
}

// A gap of the primary's probes: the path was dead and came back by itself, as with a NAT that keeps its ports.
TEST(SendingAgain, AGapOfTheProbesPutsWhatWasSentInDoubt) {
  Flow flow;
  flow.relay_too = false;
  flow.go_on(2s, 10ms);
  flow.client.dead = {flow.client.address};
  flow.go_on(270ms, 10ms, false);
  flow.client.dead.clear();
  flow.go_on(1s, 10ms);
  EXPECT_EQ(flow.lost(), 0U);
}

// trap: paths-7: the LAN speaks first to a peer whose NAT has forgotten it. Its keepalive shows where it is.
TEST(SendingAgain, NothingIsLostWhenTheLanSpeaksFirstToAPeerThatCannotHear) {
  Flow flow;
  flow.go_on(500ms, 100ms);
  for (int i = 0; i < 6; ++i) {  // idle
    flow.gateway.run(25s);
    flow.client.send_from(flow.at, probe(++flow.sequence));
  }
  flow.gateway.run(1s);
  flow.client.dead = {flow.client.address, kRelay};
  flow.client.keepalives = 0;
  flow.go_on(24s, 100ms, false);
  EXPECT_EQ(flow.lost(), 240U);
  flow.at = kMovedTo;
  flow.go_on(1s, 100ms);
  flow.gateway.run(1s);
  EXPECT_EQ(flow.lost(), 0U);
}

TEST(SendingAgain, APeerThatWakesWhenSpokenToIsNotSuspected) {
  Flow flow;
  flow.go_on(500ms, 100ms);
  for (int i = 0; i < 6; ++i) {
    flow.gateway.run(25s);
    flow.client.send_from(flow.at, probe(++flow.sequence));
  }
  flow.gateway.run(5s);
  flow.client.keepalives = 0;
  const std::uint64_t before = flow.resent();
  flow.speak();
  flow.gateway.run(30ms);
  flow.go_on(3s, 100ms);
  EXPECT_EQ(flow.client.keepalives, 0U);
  EXPECT_EQ(flow.resent(), before);
  EXPECT_EQ(flow.lost(), 0U);
}

// A standard peer knows of no probes: it is never sent anything twice.
TEST(SendingAgain, IsForPenstockClientsOnly) {
  World world;
  Client standard(world.gateway, {ip("198.51.100.140"), 5000}, 5, false);
  world.gateway.publish(standard.policy());
  standard.connect();
  standard.send(echo_request(standard.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  EXPECT_EQ(world.gateway.resend[0]->packets(standard.peer), 0U);
}

TEST(SendingAgain, FastFlowsAreNotKept) {
  Flow flow;
  flow.go_on(500ms, 10ms);
  for (int i = 0; i < 20; ++i) {
    for (int j = 0; j < 500; ++j) flow.speak(1200);
    flow.gateway.run(1ms);
  }
  EXPECT_FALSE(flow.gateway.workers[0]->tunnels->keeps(flow.client.peer));
  const std::uint64_t kept = flow.gateway.workers[0]->counters.kept_packets;
  EXPECT_LE(kept, 400U);
  flow.client.send_from(flow.at, probe(++flow.sequence));
  EXPECT_TRUE(flow.gateway.workers[0]->tunnels->keeps(flow.client.peer));
}

TEST(SendingAgain, FlowsOfSeveralWorkersAreAllHealed) {
  GatewayOptions options;
  options.workers = 3;
  Flow flow{options};
  flow.go_on(1s, 10ms);
  flow.client.dead = {flow.client.address};
  for (std::uint16_t worker = 0; worker < 3; ++worker)
    ASSERT_EQ(flow.gateway.slow->send_control(flow.client.peer, text("hello"), flow.gateway.now()), DropReason::none);
  flow.gateway.run(80ms);
  flow.client.received.clear();
  flow.at = kMovedTo;
  flow.client.send_from(flow.at, probe(++flow.sequence));
  flow.gateway.run(100ms);
  std::size_t hellos = 0;
  for (const Octets& inner : flow.client.received)
    if (const auto control = wireguard::parse_control(inner))
      hellos += control->type == wireguard::ControlType::message;
  EXPECT_EQ(hellos, 3U);
}

}  // namespace
}  // namespace penstock::gateway::test
