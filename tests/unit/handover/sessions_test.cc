// Sessions that outlive the process: the other end must not notice, and no nonce is ever used twice.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "dataplane/core/wireguard/handover.h"
#include "dataplane/core/wireguard/messages.h"
#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

using namespace std::chrono_literals;

DeviceConfig fixed(std::uint64_t key) {
  DeviceConfig out;
  out.private_key = private_key(key);
  out.max_peers = 16;
  return out;
}

// A pair whose `b` can be restarted.
struct Restarting : Pair {
  explicit Restarting(const PeerConfig& extra = {}) : Pair(extra, fixed(1), fixed(2)), peer(of(a, extra, false)) {}

  // What it leaves goes into a new device. Returns how many sessions that has.
  std::size_t restart() {
    net.collect(b);
    const PeerHandover left = b.device->export_peer(0).value();
    auto next = std::make_unique<Device>(fixed(2), *b.random);
    EXPECT_EQ(next->add_peer(peer, net.now()).error, PeerError::none);
    const std::size_t sessions = next->import_peer(0, left, net.now());
    b.device = std::move(next);
    net.collect(b);
    return sessions;
  }

  PeerConfig peer;
};

TEST(Handover, ASessionGoesOnInBothDirections) {
  for (const bool path_switch : {false, true}) {
    PeerConfig extra;
    extra.path_switch = path_switch;
    Restarting pair(extra);
    pair.establish();
    const std::size_t handshakes = pair.a.count_sent(MessageType::initiation);
    EXPECT_EQ(pair.restart(), 1U);
    EXPECT_TRUE(pair.delivers(pair.b, pair.a)) << "it knows where the peer is";
    EXPECT_TRUE(pair.delivers(pair.a, pair.b));
    EXPECT_EQ(pair.restart(), 1U);
    EXPECT_TRUE(pair.delivers(pair.a, pair.b));
    EXPECT_EQ(pair.a.count_sent(MessageType::initiation), handshakes);
    EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 0U);
    EXPECT_TRUE(pair.b.device->peer_info(0)->session);
    EXPECT_TRUE(pair.b.device->peer_info(0)->last_handshake.has_value());
    // And it is renewed when its time has come, as if nothing had been.
    for (int i = 0; i < 140; ++i) {
      pair.net.send(pair.a, 0, inner_packet(40));
      pair.net.run_for(1s);
    }
    EXPECT_EQ(pair.a.count_sent(MessageType::initiation), handshakes + 1);
    EXPECT_TRUE(pair.delivers(pair.b, pair.a));
  }
}

// The initiator's end: renewing stays its duty.
TEST(Handover, AnInitiatorStaysOne) {
  Restarting pair;
  pair.b.device->set_endpoint(0, {{}, pair.a.address, 0}, pair.net.now());
  pair.net.send(pair.b, 0, inner_packet(60));
  pair.net.run_for(100ms);
  ASSERT_EQ(pair.a.received.size(), 1U);
  pair.restart();
  EXPECT_TRUE(pair.b.device->peer_info(0)->initiator);
  for (int i = 0; i < 125; ++i) {
    pair.net.send(pair.b, 0, inner_packet(40));
    pair.net.run_for(1s);
  }
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 2U) << "renewed once, after two minutes";
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 0U);
}

// trap: wg nonce reuse — every data message of every session has a counter of its own, whatever happens between.
RC_GTEST_PROP(Handover, NoNonceIsUsedTwice, ()) {
  Restarting pair;
  std::set<std::pair<std::uint32_t, std::uint64_t>> used;
  bool twice = false;
  pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>& bytes) {
    if (source != pair.b.address || classify(bytes) != MessageType::data) return true;
    const auto* header = reinterpret_cast<const DataHeader*>(bytes.data());
    twice |= !used.emplace(header->receiver.get(), header->counter.get()).second;
    return true;
  };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(100ms);
  for (int step = *rc::gen::inRange(1, 12); step > 0; --step) {
    switch (*rc::gen::inRange(0, 4)) {
      case 0:
        pair.restart();
        break;
      case 1:
        for (int i = *rc::gen::inRange(1, 40); i > 0; --i) pair.net.send(pair.b, 0, inner_packet(40));
        break;
      case 2:
        pair.net.send(pair.a, 0, inner_packet(40));
        break;
      case 3:
        pair.net.run_for(std::chrono::milliseconds(*rc::gen::inRange(1, 60000)));
        break;
    }
  }
  for (int i = 0; i < 3; ++i) pair.net.send(pair.b, 0, inner_packet(40));
  pair.net.run_for(1s);
  RC_ASSERT(!twice);
  RC_ASSERT(!used.empty());
}

// trap: wg replay — what was heard before the restart is not heard again after it.
TEST(Handover, WhatWasReceivedIsRefusedAfterwards) {
  Restarting pair;
  std::vector<std::vector<std::uint8_t>> to_b;
  pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>& bytes) {
    if (source == pair.a.address) to_b.push_back(bytes);
    return true;
  };
  pair.establish();
  for (int i = 0; i < 50; ++i) pair.net.send(pair.a, 0, inner_packet(40));
  pair.net.run_for(100ms);
  const std::size_t received = pair.b.received.size();
  EXPECT_GE(received, 50U);
  pair.restart();
  const auto again = to_b;
  for (const auto& datagram : again) pair.net.inject(pair.a.address, pair.b.address, datagram);
  pair.net.run_for(100ms);
  EXPECT_EQ(pair.b.received.size(), received);
  EXPECT_GE(pair.b.count(DropReason::wg_handshake_replay), 1U) << "the old initiation, too";
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
}

// The response was the last thing that the old process did: the session waits for its first message in the new one.
TEST(Handover, AHandshakeThatWasAnsweredIsNotLost) {
  Restarting pair;
  bool restarted = false;
  pair.net.send(pair.a, 0, inner_packet(60, 1));
  for (int i = 0; i < 1000 && pair.b.received.empty(); ++i) {
    pair.net.run_for(1ms);
    if (!restarted && pair.b.count_sent(MessageType::response) == 1) {
      EXPECT_EQ(pair.restart(), 1U);
      restarted = true;
    }
  }
  ASSERT_TRUE(restarted);
  EXPECT_EQ(pair.b.received.size(), 1U);
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
}

TEST(Handover, AKeepaliveOfOursAsksForNoSessionThatThereIs) {
  PeerConfig extra;
  extra.persistent_keepalive_s = 25;
  Restarting pair(extra);
  pair.peer.endpoints = {pair.a.address};  // it would begin at once
  pair.establish();
  const std::size_t asked = pair.b.count_sent(MessageType::initiation);
  pair.restart();
  pair.net.run_for(60s);
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), asked);
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
}

TEST(Handover, WhatHasExpiredOrIsNotOursIsLeftOut) {
  Restarting pair;
  pair.establish();
  const PeerHandover left = pair.b.device->export_peer(0).value();
  const auto sessions_of = [&](const PeerHandover& from, Duration later) {
    Device next(fixed(2), *pair.b.random);
    Now now = pair.net.now();
    now.monotonic += later;
    EXPECT_EQ(next.add_peer(pair.peer, now).error, PeerError::none);
    return next.import_peer(0, from, now);
  };
  EXPECT_EQ(sessions_of(left, {}), 1U);
  EXPECT_EQ(sessions_of(left, 179s), 1U);
  EXPECT_EQ(sessions_of(left, 181s), 0U);
  EXPECT_EQ(sessions_of(left, -10s), 0U) << "not yet made";
  PeerHandover other = left;
  other.public_key.bytes[0] ^= 1;
  EXPECT_EQ(sessions_of(other, {}), 0U) << "another peer's";
  other = left;
  other.sessions[0].send_counter = kRejectAfterMessages;
  EXPECT_EQ(sessions_of(other, {}), 0U) << "used up";
  other = left;
  other.sessions.push_back(left.sessions[0]);
  other.sessions.back().role = SessionRole::previous_0;
  EXPECT_EQ(sessions_of(other, {}), 1U) << "an index is one session's";
}

// A restored window accepts nothing that was accepted, and everything newer.
RC_GTEST_PROP(Handover, ARestoredWindowRefusesAllThatWasAccepted, (std::uint64_t seed)) {
  SeededRandom random(seed);
  auto window = std::make_unique<ReplayWindow>();
  std::set<std::uint64_t> accepted;
  std::uint64_t newest = random.below(3) == 0 ? random.next() >> 8 : 0;
  const std::uint64_t step = 1 + random.below(200);
  for (int i = 0; i < 300; ++i) {
    newest += random.below(static_cast<std::uint32_t>(step));
    const std::uint64_t back = random.below(600);
    const std::uint64_t counter = newest > back && random.below(2) == 0 ? newest - back : newest;
    if (window->accept(counter)) accepted.insert(counter);
  }
  auto restored = std::make_unique<ReplayWindow>();
  restored->accept(77);  // whatever it held before
  restored->restore(window->snapshot());
  for (const std::uint64_t counter : accepted) RC_ASSERT(!restored->accept(counter));
  const std::uint64_t head = *accepted.rbegin() / ReplayWindow::kBlock;
  // Within the blocks that are told exactly, what was missing is still welcome: a late packet is no replay.
  for (std::uint64_t counter = head < 32 ? 0 : (head - 31) * 32; counter < *accepted.rbegin() + 3000; counter += 7)
    RC_ASSERT(restored->would_accept(counter) == !accepted.contains(counter));
}

}  // namespace
}  // namespace penstock::wireguard
