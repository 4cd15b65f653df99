// The gateway's rings: what is kept, what is sent again when a path fails, and the bounds of both.
#include "dataplane/gateway/resend.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <deque>
#include <map>
#include <set>

#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

const Endpoint kRelay{ip("198.51.100.20"), 49152};
const Endpoint kMovedTo{ip("198.51.100.130"), 61000};
constexpr Instant kStart{1h};

Path path_to(const Endpoint& remote) {
  return {{}, remote, 0};
}

ResendOrder order_for(PeerIndex peer, Instant since, Instant up_to, Instant until, std::vector<Endpoint> to) {
  ResendOrder out;
  out.peer = peer;
  out.since = since;
  out.up_to = up_to;
  out.until = until;
  for (const Endpoint& one : to) out.to[out.paths++] = path_to(one);
  return out;
}

Octets datagram(std::uint32_t number, std::size_t size = 96) {
  Octets out(size, static_cast<std::uint8_t>(number));
  std::memcpy(out.data(), &number, sizeof number);
  return out;
}

std::uint32_t number_of(Bytes bytes) {
  std::uint32_t number = 0;
  std::memcpy(&number, bytes.data(), sizeof number);
  return number;
}

struct Store {
  explicit Store(std::size_t blocks = 64) : store(gates, 64, blocks) {}
  std::vector<std::uint32_t> drain(Instant now) {
    std::vector<std::uint32_t> out;
    ResendStore::Copy copy;
    while (store.poll(now, copy)) out.push_back(number_of(copy.bytes));
    return out;
  }
  ResendGates gates{64};
  ResendStore store;
};

TEST(ResendStore, SendsWhatWasKeptSinceInOrderOverEachPathOnce) {
  Store s;
  for (std::uint32_t i = 0; i < 20; ++i) s.store.keep(3, datagram(i), kStart + i * 10ms);
  const Instant now = kStart + 200ms;
  s.store.order(order_for(3, kStart + 150ms, now, now + 2s, {kRelay, kMovedTo}), now);
  ResendStore::Copy copy;
  std::vector<std::pair<std::uint32_t, Endpoint>> seen;
  while (s.store.poll(now, copy)) {
    EXPECT_EQ(copy.peer, 3U);
    EXPECT_EQ(copy.bytes.size(), 96U);
    seen.emplace_back(number_of(copy.bytes), copy.to.remote);
  }
  ASSERT_EQ(seen.size(), 10U);
  for (std::uint32_t i = 0; i < 10; ++i) {
    EXPECT_EQ(seen[i].first, 15 + i / 2);
    EXPECT_EQ(seen[i].second, i % 2 == 0 ? kRelay : kMovedTo);
  }
  // Done: what comes later is nobody's business.
  s.store.keep(3, datagram(99), now + 10ms);
  EXPECT_TRUE(s.drain(now + 20ms).empty());
}

TEST(ResendStore, CopiesWhatIsNewerUntilTheOrderEnds) {
  Store s;
  s.store.keep(3, datagram(0), kStart);
  s.store.order(order_for(3, kStart, kStart + 2s, kStart + 2s, {kRelay}), kStart);
  EXPECT_EQ(s.drain(kStart), std::vector<std::uint32_t>{0});
  s.store.keep(3, datagram(1), kStart + 1s);
  EXPECT_TRUE(s.store.due(kStart + 1s));
  EXPECT_EQ(s.drain(kStart + 1s), std::vector<std::uint32_t>{1});
  s.store.keep(3, datagram(2), kStart + 2s + 1ms);
  EXPECT_TRUE(s.drain(kStart + 2s + 1ms).empty()) << "two seconds at most";
  // Stopped early.
  s.store.order(order_for(3, kStart + 2s, kStart + 9s, kStart + 9s, {kRelay}), kStart + 3s);
  s.store.order(order_for(3, {}, {}, {}, {}), kStart + 3s);
  s.store.keep(3, datagram(3), kStart + 3s);
  EXPECT_TRUE(s.drain(kStart + 3s).empty());
}

TEST(ResendStore, StaysBelowTheRatesOfATunnelAndOfAnAddress) {
  Store s;
  // Twelve seconds' worth of packets in the ring, all wanted at once.
  std::uint32_t number = 0;
  Instant now = kStart;
  for (; number < 2400; ++number, now += 500us) s.store.keep(3, datagram(number, 64), now);
  s.store.order(order_for(3, kStart, now, now + 2s, {kRelay}), now);
  const Instant begin = now;
  std::size_t sent = s.drain(now).size();
  EXPECT_LE(sent, 1000U) << "half a second's worth at once";
  EXPECT_GE(sent, 990U);
  for (; now < begin + 500ms; now = std::max(now + 1ms, std::min(s.store.next(), begin + 500ms)))
    sent += s.drain(now).size();
  EXPECT_LE(sent, 2010U) << "2 kpps";
  EXPECT_GE(sent, 1900U);
  // 2 Mbit/s.
  Store big;
  for (std::uint32_t i = 0; i < 150; ++i) big.store.keep(4, datagram(i, 1450), kStart + i * 5ms);
  now = kStart + 750ms;
  big.store.order(order_for(4, kStart, now, now + 2s, {kRelay}), now);
  EXPECT_LE(big.drain(now).size() * 1450, 125'000U);
}

TEST(ResendStore, BoundsPacketsAndBytesPerPeerAndForgetsTheOldest) {
  Store s{256};
  Instant now = kStart;
  for (std::uint32_t i = 0; i < 6000; ++i, now += 400us) s.store.keep(1, datagram(i, 32), now);
  EXPECT_LE(s.store.packets(1), ResendStore::kMaxPackets);
  EXPECT_GE(s.store.packets(1), ResendStore::kMaxPackets - ResendStore::kBlockSize / 48);
  for (std::uint32_t i = 0; i < 600; ++i, now += 4ms) s.store.keep(2, datagram(i, 1400), now);
  EXPECT_LE(s.store.bytes(2), ResendStore::kMaxBytes);
  EXPECT_GE(s.store.bytes(2), ResendStore::kMaxBytes - ResendStore::kBlockSize);
  s.store.order(order_for(2, kStart, now, now + 2s, {kRelay}), now);
  const auto sent = s.drain(now);
  ASSERT_FALSE(sent.empty());
  EXPECT_GT(sent.front(), 400U) << "the oldest are gone";
}

TEST(ResendStore, GivesEverythingBackAfterAWhile) {
  Store s{8};
  for (PeerIndex peer = 0; peer < 20; ++peer) s.store.keep(peer, datagram(peer), kStart + peer * 1ms);
  EXPECT_EQ(s.store.blocks_used(), 8U);
  EXPECT_EQ(s.store.packets(0), 0U) << "the pool is capped: the oldest made room";
  EXPECT_EQ(s.store.packets(19), 1U);
  Instant now = kStart + 1s;
  while (s.store.next() != kNever && now < kStart + 60s) {
    now = std::max(now + 1ms, s.store.next());
    s.drain(now);
  }
  EXPECT_EQ(s.store.blocks_used(), 0U);
  EXPECT_LE(now, kStart + 35s);
  for (PeerIndex peer = 0; peer < 20; ++peer) EXPECT_NE(s.store.keep(peer, datagram(peer), now), ResendStore::Kept::too_fast);
}

TEST(ResendStore, WhatIsTooFastIsNotKept) {
  Store s;
  Instant now = kStart;
  std::size_t kept = 0;
  for (std::uint32_t i = 0; i < 100'000; ++i, now += 10us) {
    if (s.store.keep(1, datagram(i, 64), now) == ResendStore::Kept::too_fast) break;
    ++kept;
  }
  EXPECT_GE(kept, 2000U);
  EXPECT_LE(kept, 2200U);
}

TEST(ResendStore, TellsOfTheFirstPacketAfterAPause) {
  Store s;
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart), ResendStore::Kept::after_a_pause);
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart + 500ms), ResendStore::Kept::yes);
  EXPECT_EQ(s.store.keep(1, datagram(1), kStart + 1600ms), ResendStore::Kept::after_a_pause);
}

TEST(ResendStore, APeerThatIsGoneTakesItsCiphertextsAlong) {
  Store s;
  s.store.keep(1, datagram(1), kStart);
  ResendOrder forget;
  forget.peer = 1;
  forget.forget = true;
  s.store.order(forget, kStart);
  EXPECT_EQ(s.store.packets(1), 0U);
  EXPECT_EQ(s.store.blocks_used(), 0U);
  s.store.order(order_for(1, kStart, kStart + 1s, kStart + 1s, {kRelay}), kStart);
  EXPECT_TRUE(s.drain(kStart).empty());
}

// Whatever is kept, ordered, expired and forgotten: never more than the bounds, only what was sent to that peer, oldest
// first, nothing that is older than was asked for, and the memory comes back.
RC_GTEST_PROP(ResendStore, KeepsItsBoundsInAnyOrderOfEvents, ()) {
  constexpr std::size_t kBlocks = 6;
  Store s{kBlocks};
  Instant now = kStart;
  std::uint32_t number = 0;
  std::map<std::uint32_t, std::pair<PeerIndex, Instant>> sent;
  std::map<PeerIndex, Instant> since;
  const auto steps = *rc::gen::inRange(10, 400);
  for (int i = 0; i < steps; ++i) {
    now += std::chrono::microseconds{*rc::gen::weightedOneOf<int>(
        {{10, rc::gen::inRange(0, 5000)}, {2, rc::gen::inRange(0, 3'000'000)}, {1, rc::gen::just(40'000'000)}})};
    const auto peer = static_cast<PeerIndex>(*rc::gen::inRange(0, 9));
    switch (*rc::gen::weightedElement<int>({{20, 0}, {2, 1}, {1, 2}, {1, 3}})) {
      case 0: {
        const Octets bytes = datagram(++number, static_cast<std::size_t>(*rc::gen::inRange(32, 9100)));
        if (s.store.keep(peer, bytes, now) != ResendStore::Kept::too_fast) sent[number] = {peer, now};
        break;
      }
      case 1:
        since[peer] = now - std::chrono::milliseconds{*rc::gen::inRange(0, 5000)};
        s.store.order(order_for(peer, since[peer], now + 1s, now + 2s, {kRelay}), now);
        break;
      case 2:
        s.store.order(order_for(peer, {}, {}, {}, {}), now);
        break;
      case 3: {
        ResendOrder forget;
        forget.peer = peer;
        forget.forget = true;
        s.store.order(forget, now);
        break;
      }
    }
    ResendStore::Copy copy;
    std::map<PeerIndex, std::uint32_t> last;
    int polls = 0;
    while (s.store.poll(now, copy)) {
      RC_ASSERT(++polls < 100'000);
      const std::uint32_t which = number_of(copy.bytes);
      RC_ASSERT(sent.contains(which));
      RC_ASSERT(sent[which].first == copy.peer);
      RC_ASSERT(sent[which].second >= since[copy.peer]);
      RC_ASSERT(!last.contains(copy.peer) || last[copy.peer] < which);
      RC_ASSERT(copy.bytes[copy.bytes.size() - 1] == static_cast<std::uint8_t>(which));
      last[copy.peer] = which;
    }
    RC_ASSERT(s.store.next() > now);  // trap: paths-21
    RC_ASSERT(s.store.blocks_used() <= kBlocks);
  }
  for (int i = 0; i < 100 && s.store.next() != kNever; ++i) {
    now = std::max(now + 1ms, s.store.next());
    s.drain(now);
  }
  RC_ASSERT(s.store.blocks_used() == 0);
}

// --- In the gateway

Octets probe(std::uint32_t switch_sequence) {
  static std::uint64_t id = 0;
  wireguard::Probe out;
  out.id = ++id;
  out.switch_sequence = switch_sequence;
  const auto packet = wireguard::make_probe_packet(out, wireguard::ControlDirection::to_gateway);
  return {packet.begin(), packet.end()};
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
        client.send_from(at, probe(++sequence));
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
    EXPECT_LE(flow.resent(), 600U);
  }
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
    if (const auto control = wireguard::parse_control(inner)) hellos += control->type == wireguard::ControlType::message;
  EXPECT_EQ(hellos, 3U);
}

}  // namespace
}  // namespace penstock::gateway::test
