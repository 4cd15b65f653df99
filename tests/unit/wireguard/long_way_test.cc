// Peers that are asked again sooner than their answer takes: the first answer counts, whatever was sent meanwhile.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

PeerConfig choosing_paths() {
  PeerConfig config;
  config.path_switch = true;
  return config;
}

class LongWay : public testing::TestWithParam<int> {};

TEST_P(LongWay, TakesARoundTripAndAHalf) {
  const Duration round_trip = milliseconds(GetParam());
  Pair pair(choosing_paths());
  pair.net.delay = round_trip / 2;
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(round_trip * 3 / 2 - milliseconds(1));
  EXPECT_EQ(pair.b.received.size(), 0U);
  EXPECT_EQ(pair.a.count(EventType::session_up), 1U) << "with the first answer";
  pair.net.run_for(milliseconds(2));
  EXPECT_EQ(pair.b.received.size(), 1U) << "with the first data";

  // What was sent again meanwhile is refused or forgotten, and there is one session as ever.
  pair.net.run_for(round_trip * 3);
  for (Node* node : {&pair.a, &pair.b}) {
    EXPECT_EQ(node->count(EventType::session_up), 1U);
    EXPECT_EQ(node->count(EventType::session_renewed), 0U);
  }
  pair.net.send(pair.b, 0, inner_packet(60));
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(round_trip);
  EXPECT_EQ(pair.a.received.size(), 1U);
  EXPECT_EQ(pair.b.received.size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(RoundTrips, LongWay, testing::Values(10, 240, 260, 400, 600, 800, 1200, 1800, 2600, 3600));

// Both ends begin, and speak all the time: nothing is lost, whoever's handshake counts.
RC_GTEST_PROP(LongWays, BothEndsBegin, ()) {
  const auto seed = *rc::gen::inRange<std::uint64_t>(1, 1'000'000);
  const Duration round_trip = milliseconds(*rc::gen::inRange(2, 1500));
  const Duration later = milliseconds(*rc::gen::inRange(0, 2000));  // than the other
  Pair pair(choosing_paths(), {}, {}, seed);
  (void)pair.b.device->update_peer(0, Pair::of(pair.a, choosing_paths()), pair.net.now());
  pair.net.delay = round_trip / 2;
  std::size_t sent_by_a = 0, sent_by_b = 0;
  for (Duration at{}; at < seconds(8); at += milliseconds(50)) {
    pair.net.send(pair.a, 0, inner_packet(60));
    ++sent_by_a;
    if (at >= later) {
      pair.net.send(pair.b, 0, inner_packet(60));
      ++sent_by_b;
    }
    pair.net.run_for(milliseconds(50));
  }
  pair.net.run_for(round_trip);
  RC_ASSERT(pair.a.count(DropReason::wg_queue_full) == 0U);
  RC_ASSERT(pair.b.received.size() == sent_by_a);
  RC_ASSERT(pair.a.received.size() == sent_by_b);
}

// Answers and tries are lost, doubled and overtaken: with what arrives there is a session that both use.
RC_GTEST_PROP(LongWays, LossyOnes, ()) {
  const auto seed = *rc::gen::inRange<std::uint64_t>(1, 1'000'000);
  Pair pair(choosing_paths(), {}, {}, seed);
  pair.net.delay = milliseconds(*rc::gen::inRange(1, 900));
  pair.net.jitter = milliseconds(*rc::gen::inRange(0, 600));
  pair.net.loss = *rc::gen::inRange<std::uint32_t>(0, 500);
  pair.net.duplicate = *rc::gen::inRange<std::uint32_t>(0, 300);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(milliseconds(*rc::gen::inRange(1, 20'000)));
  pair.net.loss = 0;
  pair.net.send(pair.a, 0, inner_packet(61));
  pair.net.run_for(seconds(30));
  const auto arrived = [](const Node& node, std::size_t length) {
    return std::any_of(node.received.begin(), node.received.end(),
                       [&](const auto& packet) { return packet.size() == length; });
  };
  // That one may be lost itself, as in WireGuard: what was sent before had not arrived, so the responder did not know of
  // the session yet, and let go of it when the initiator asked for another after 15 s of silence.
  pair.net.send(pair.a, 0, inner_packet(62));
  pair.net.send(pair.b, 0, inner_packet(63));
  pair.net.run_for(seconds(3));
  RC_ASSERT(arrived(pair.b, 62));
  RC_ASSERT(arrived(pair.a, 63));
}

TEST(LongWays, AFullTableDoesNotEndTheTries) {
  DeviceConfig config;
  config.max_sessions = 4;
  Pair pair(choosing_paths(), config, config);
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>& bytes) { return bytes[0] == 1; };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(30));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 10U);
  EXPECT_EQ(pair.b.count_sent(MessageType::response), 10U) << "each is answered";
  pair.net.filter = nullptr;
  pair.net.run_for(seconds(6));
  EXPECT_EQ(pair.b.received.size(), 1U);
}

// What was begun with the old preshared key is not finished, on neither side and in no earlier try.
TEST(LongWays, ANewPresharedKeyEndsEarlierTries) {
  Pair pair(choosing_paths());
  pair.net.delay = milliseconds(300);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(milliseconds(700));
  ASSERT_EQ(pair.a.count(EventType::session_up), 1U);
  PeerConfig config = Pair::of(pair.a, choosing_paths(), false);
  config.preshared_key.bytes.fill(7);
  ASSERT_EQ(pair.b.device->update_peer(0, config, pair.net.now()), PeerError::none);
  pair.net.run_for(milliseconds(300));
  EXPECT_EQ(pair.b.received.size(), 0U);
  EXPECT_GE(pair.b.count(DropReason::wg_unknown_index), 1U);
}

// One that does not choose its paths is asked again when no answer can come any more, and keeps one answer as ever.
TEST(LongWays, OthersKeepOne) {
  Pair pair;
  const auto initiation = [&] {
    pair.a.device->want_session(0, pair.net.now());
    auto bytes = pair.a.device->poll_output()->bytes;
    EXPECT_EQ(pair.b.device->handle_handshake(bytes, {pair.b.address, pair.a.address, 0}, pair.net.now()),
              DropReason::none);
    return pair.b.device->poll_output()->bytes;
  };
  const auto first = initiation();
  pair.net.run_for(seconds(6));
  const Path to_b{pair.a.address, pair.b.address, 0};
  EXPECT_EQ(pair.a.device->handle_handshake(first, to_b, pair.net.now()), DropReason::wg_handshake_state);
}

}  // namespace
}  // namespace penstock::wireguard
