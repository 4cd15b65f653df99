// PeerWatch alone: what happens to very many peers at once, and its bounds.
#include "dataplane/gateway/peer_watch.h"

#include <gtest/gtest.h>

#include <set>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/resend.h"
#include "tests/unit/gateway/buffers.h"
#include "tests/unit/gateway/builder.h"
#include "tests/unit/gateway/topology.h"

namespace penstock::gateway::test {
namespace {

using namespace std::chrono_literals;

struct Watch {
  explicit Watch(std::size_t peers)
      : context{configuration, packets, random, SlowPathLimits{}},
        tunnels(peers, 1024, 1, 100ms),
        watch(context, tunnels) {
    EXPECT_FALSE(Configuration::build(two_armed(), configuration));
  }
  // What is on its way to workers: (kind, peer, remote); everything is freed.
  struct Sent {
    ToWorker kind;
    PeerIndex peer;
    Endpoint remote;
    ResendOrder order;
  };
  std::vector<Sent> drain() {
    std::vector<Sent> out;
    for (Packet* packet : context.output.to_workers) {
      Sent one{kind_of<ToWorker>(*packet), packet->peer, packet->outer.remote, {}};
      if (one.kind == ToWorker::resend) std::memcpy(&one.order, packet->data, sizeof one.order);
      out.push_back(one);
      packets.release(packet);
    }
    context.output.to_workers.clear();
    return out;
  }
  static Endpoint address_of(PeerIndex peer, std::uint16_t port = 4000) {
    return {IpAddress::v4(0x0a000000 + peer), port};
  }
  void known(PeerIndex peer) {
    watch.set_endpoints(peer, {}, now);
    watch.heard_from(peer, {{}, address_of(peer), 0}, now);
  }
  void probe(PeerIndex peer) { watch.probed(peer, {{}, address_of(peer), 0}, {true, false}, 10ms, now); }
  void probe_again(PeerIndex peer, bool doubt) {
    watch.probed(peer, {{}, address_of(peer), 0}, {true, doubt}, 10ms, now);
  }
  // Moves on, one step of the watch at a time.
  std::vector<Sent> run(Duration time) {
    std::vector<Sent> out;
    const Instant end = now + time;
    while (watch.next_timeout() <= end) {
      now = std::max(now, watch.next_timeout());
      watch.handle_timeout(now);
      EXPECT_GT(watch.next_timeout(), now);  // trap: paths-21
      for (const Sent& one : drain()) out.push_back(one);
    }
    now = end;
    return out;
  }

  HeapPackets packets;
  SeededRandom random;
  Configuration configuration;
  SlowContext context;
  wireguard::DataPath tunnels;
  PeerWatch watch;
  Instant now{1h};
};

// paths.md's table: 100 000 peers known, 1 000 busy. The busy ones come first; nobody is flooded.
TEST(PeerWatch, AHundredThousandPeersHearFromUsPacedBusyOnesFirst) {
  constexpr PeerIndex kPeers = 100'000, kBusyEvery = 100;
  Watch w{kPeers};
  for (PeerIndex peer = 0; peer < kPeers; ++peer) w.known(peer);
  for (int i = 0; i < 5; ++i) {
    for (PeerIndex peer = 0; peer < kPeers; peer += kBusyEvery) w.probe(peer);
    w.run(100ms);
  }
  for (PeerIndex peer = 0; peer < kPeers; peer += kBusyEvery) w.probe(peer);
  w.drain();
  const Instant changed = w.now;
  w.watch.address_changed(w.now);
  std::set<PeerIndex> heard, busy, ordered;
  Duration busy_done{}, all_done{};
  const auto take = [&](const std::vector<Watch::Sent>& sent) {
    for (const auto& one : sent) {
      if (one.kind == ToWorker::resend) {
        ordered.insert(one.order.peer);
        continue;
      }
      heard.insert(one.peer);
      if (one.peer % kBusyEvery == 0) busy.insert(one.peer);
    }
    if (busy.size() == kPeers / kBusyEvery && busy_done == Duration{}) {
      busy_done = w.now - changed;
      EXPECT_LE(heard.size(), busy.size() + 64) << "before anybody else";
    }
    if (heard.size() == kPeers && all_done == Duration{}) all_done = w.now - changed;
  };
  take(w.drain());
  std::size_t most = 0;
  for (int i = 0; i < 5000 && all_done == Duration{}; ++i) {
    const auto sent = w.run(1ms);
    most = std::max(most, sent.size());
    take(sent);
  }
  EXPECT_GT(busy_done, 0ms);
  EXPECT_LE(busy_done, 100ms);
  EXPECT_LE(all_done, 3s);
  EXPECT_LE(most, 1500U) << "in a millisecond, silent peers included";
}

// A client that has no data just now asks once a second, and again within 300 ms when it hears nothing: one that is
// later than that has lost its way to us. Ours may have been forgotten.
TEST(PeerWatch, AnActiveClientIsMissedSoonAfterItsProbeIsDue) {
  Watch w{4};
  w.known(1);
  for (int i = 0; i < 5; ++i) {
    w.probe(1);
    EXPECT_TRUE(w.drain().empty() || i > 0);
    w.drain();
    EXPECT_TRUE(w.run(1s).empty());
  }
  EXPECT_TRUE(w.run(300ms).empty());
  const auto sent = w.run(150ms);
  ASSERT_FALSE(sent.empty());
  EXPECT_EQ(sent[0].kind, ToWorker::to_peer_on_path);
  EXPECT_EQ(sent[0].remote, Watch::address_of(1));
}

// The client's NAT forgets and is found out within a round of probes: nothing is missing here, but the client says so.
TEST(PeerWatch, SendsAgainWhatTheClientDoubtsUntilItHasHeard) {
  Watch w{4};
  w.known(1);
  for (int i = 0; i < 10; ++i) {
    w.probe_again(1, false);
    w.run(80ms);
  }
  w.drain();
  const Instant last = w.now - 80ms;
  const auto order_of = [&](bool doubt) -> std::optional<ResendOrder> {
    w.probe_again(1, doubt);
    for (const auto& one : w.drain())
      if (one.kind == ToWorker::resend) return one.order;
    return std::nullopt;
  };
  w.run(20ms);
  const auto first = order_of(true);
  ASSERT_TRUE(first);
  EXPECT_LE(first->since, last);
  EXPECT_EQ(first->up_to, w.now);
  w.run(50ms);
  const auto second = order_of(true);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->since, first->since) << "the answer may be lost as well";
  w.run(50ms);
  w.run(3s);
  const auto much_later = order_of(true);
  ASSERT_TRUE(much_later);
  EXPECT_GT(much_later->since, first->since) << "not for ever";
  const auto heard = order_of(false);
  ASSERT_TRUE(heard);
  EXPECT_GT(heard->since, first->since);
}

TEST(PeerWatch, RemembersAtMostEightAddressesOfAPeer) {
  Watch w{4};
  w.known(1);
  for (std::uint16_t port = 1; port <= 200; ++port) w.watch.heard_from(1, {{}, Watch::address_of(1, port), 0}, w.now);
  w.watch.suspect(1, w.now);
  EXPECT_EQ(w.drain().size(), PeerWatch::kMaxAddresses);
}

// A pinned (1.0) or unknown peer is left alone.
TEST(PeerWatch, WhoIsNotWatchedIsNeverSpokenTo) {
  Watch w{4};
  w.probe(2);
  w.watch.spoke_first(2, w.now);
  w.watch.suspect(2, w.now);
  w.watch.address_changed(w.now);
  EXPECT_TRUE(w.run(60s).empty());
  EXPECT_FALSE(w.tunnels.keeps(2));
}

TEST(PeerWatch, SpeakingToASleeperEndsAfterAWhileAndStartsAnewOnlyWhenItWasHeard) {
  Watch w{4};
  w.known(1);
  w.probe(1);
  w.run(60s);
  w.watch.spoke_first(1, w.now);
  const auto first = w.run(60s);
  EXPECT_GE(first.size(), 5U);
  EXPECT_LE(first.size(), 20U);
  for (int i = 0; i < 30; ++i) {
    w.watch.spoke_first(1, w.now);
    EXPECT_TRUE(w.run(2s).empty()) << "it does not answer";
  }
  w.probe(1);
  w.run(60s);
  w.watch.spoke_first(1, w.now);
  EXPECT_FALSE(w.run(60s).empty());
}

}  // namespace
}  // namespace penstock::gateway::test
