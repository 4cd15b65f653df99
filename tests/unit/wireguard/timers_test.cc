// Timers of whitepaper section 6, to the millisecond, in virtual time.
#include <gtest/gtest.h>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

constexpr Duration kLink = milliseconds(10);

Duration since_start(Instant at) {
  return at - time_at({}).monotonic;
}

std::vector<Duration> times_of(const Node& node, MessageType type) {
  std::vector<Duration> times;
  for (std::size_t i = 0; i < node.sent_types.size(); ++i)
    if (node.sent_types[i] == static_cast<std::uint8_t>(type)) times.push_back(since_start(node.sent_at[i]));
  return times;
}

TEST(Timers, InitiatorRenewsAfter120Seconds) {
  Pair pair;
  for (int second = 0; second < 400; ++second) {
    pair.net.send(pair.a, 0, inner_packet(60, static_cast<std::uint8_t>(second)));
    pair.net.run_for(milliseconds(500));
    pair.net.send(pair.b, 0, inner_packet(60, static_cast<std::uint8_t>(second)));
    pair.net.run_for(milliseconds(500));
  }
  EXPECT_EQ(pair.b.received.size(), 400U) << "renewing loses nothing";
  EXPECT_EQ(pair.a.received.size(), 400U);
  const auto initiations = times_of(pair.a, MessageType::initiation);
  ASSERT_EQ(initiations.size(), 4U);
  EXPECT_EQ(initiations[1], seconds(121)) << "with the first packet after 120 s";
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 0U) << "the responder leaves it to the initiator";
  EXPECT_EQ(pair.a.count(EventType::session_renewed), 3U);
  EXPECT_EQ(pair.b.count(EventType::session_renewed), 3U);
  EXPECT_EQ(pair.a.count(EventType::session_down), 0U);
}

// An initiator that sends not even keepalives (they would renew after 120 s) still renews in time for the responder.
TEST(Timers, ReceivingRenewsAfter165Seconds) {
  Pair pair;
  pair.establish();
  for (Node* node : {&pair.a, &pair.b}) {
    Session* session = node->device->data_path().sending_session(0, pair.net.now().monotonic);
    ASSERT_NE(session, nullptr);
    const Path from = *node->device->data_path().endpoint(0);
    const auto notes_at = [&](Duration age) {
      return node->device->data_path().receive_notes(*session, from, session->created_at + age);
    };
    EXPECT_EQ(notes_at(seconds(165) - Duration(1)), 0);
    EXPECT_EQ(notes_at(seconds(165)), node == &pair.a ? note_bit::renew : 0) << "only the initiator's duty";
  }
}

TEST(Timers, IdleSessionEndsAfter180Seconds) {
  Pair pair;
  pair.establish();
  pair.net.run(seconds(179));
  EXPECT_EQ(pair.a.count(EventType::session_down), 0U);
  EXPECT_NE(pair.a.device->data_path().sending_session(0, pair.net.now().monotonic), nullptr);
  pair.net.run(seconds(181));
  EXPECT_EQ(pair.a.count(EventType::session_down), 1U);
  EXPECT_EQ(pair.b.count(EventType::session_down), 1U);
  EXPECT_EQ(pair.a.device->data_path().sending_session(0, pair.net.now().monotonic), nullptr);
  EXPECT_EQ(pair.a.device->poll_timeout().at, kNever) << "an idle peer costs nothing";
  EXPECT_EQ(pair.b.device->poll_timeout().at, kNever);
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << "and comes back with the next packet";
}

TEST(Timers, ResponderWakesTheTunnelToo) {
  Pair pair;
  pair.establish();
  pair.net.run(seconds(200));
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 1U);
}

TEST(Timers, OldSessionIsRefused) {
  Pair pair;
  pair.establish();
  std::vector<std::uint8_t> late;
  pair.net.filter = [&](Endpoint&, Endpoint&, std::vector<std::uint8_t>& bytes) {
    late = bytes;
    return false;
  };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(1));
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  const Path from{pair.b.address, pair.a.address, 0};
  const DataHeader* header = view_as<DataHeader>(Bytes{late});
  Session* session = pair.b.device->data_path().find_session(header->receiver.get());
  ASSERT_NE(session, nullptr);
  // Not even before the timer has run.
  EXPECT_EQ(DataPath::check_receive(*session, header->counter.get(), session->created_at + kRejectAfterTime),
            DropReason::wg_session_expired);
  pair.net.run(seconds(200));
  EXPECT_EQ(pair.b.device->handle_datagram(late, from, pair.net.now()).reason, DropReason::wg_unknown_index);
}

TEST(Timers, KeepaliveAfter10SecondsOfSilence) {
  Pair pair;
  pair.a.device->want_session(0, pair.net.now());
  pair.net.run(seconds(1));
  const std::size_t before_a = pair.a.count_sent(MessageType::data);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run(seconds(60));
  const auto keepalives = times_of(pair.b, MessageType::data);
  ASSERT_EQ(keepalives.size(), 1U);
  EXPECT_EQ(keepalives[0], seconds(11) + kLink);
  EXPECT_EQ(pair.a.count_sent(MessageType::data), before_a + 1) << "keepalives are not answered";
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
}

TEST(Timers, KeepaliveComesEvery10SecondsWhileDataFlowsOneWay) {
  Pair pair;
  pair.establish();
  const std::size_t before = pair.b.count_sent(MessageType::data);
  for (int i = 0; i < 100; ++i) {
    pair.net.send(pair.a, 0, inner_packet(60));
    pair.net.run_for(seconds(1));
  }
  const std::size_t sent = pair.b.count_sent(MessageType::data) - before;
  EXPECT_GE(sent, 8U);
  EXPECT_LE(sent, 10U);
}

TEST(Timers, AnsweringSparesTheKeepalive) {
  Pair pair;
  pair.establish();
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(5));
  pair.net.send(pair.b, 0, inner_packet(60));
  const std::size_t b_sent = pair.b.count_sent(MessageType::data);
  const std::size_t a_sent = pair.a.count_sent(MessageType::data);
  pair.net.run_for(seconds(9));
  EXPECT_EQ(pair.b.count_sent(MessageType::data), b_sent);
  pair.net.run_for(seconds(60));
  EXPECT_EQ(pair.b.count_sent(MessageType::data), b_sent);
  EXPECT_EQ(pair.a.count_sent(MessageType::data), a_sent + 1) << "the last word was B's: A keeps alive";
}

TEST(Timers, NewHandshakeAfter15SecondsWithoutAnswer) {
  Pair pair;
  pair.establish();
  pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>&) { return source == pair.a.address; };
  pair.net.run(seconds(20));
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run(seconds(30));
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run(seconds(34));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
  pair.net.run(seconds(36));
  const auto initiations = times_of(pair.a, MessageType::initiation);
  ASSERT_EQ(initiations.size(), 2U);
  EXPECT_EQ(initiations[1], seconds(35)) << "15 s after the first packet that nothing followed";
}

TEST(Timers, ResponderAlsoNoticesSilence) {
  Pair pair;
  pair.establish();
  pair.net.run(seconds(20));
  pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>&) { return source == pair.b.address; };
  pair.net.send(pair.b, 0, inner_packet(60));
  pair.net.run(seconds(36));
  EXPECT_EQ(times_of(pair.b, MessageType::initiation), std::vector<Duration>(1, seconds(35)));
}

TEST(Timers, GivesUpAfter90Seconds) {
  Pair pair;
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run(seconds(300));
  const auto initiations = times_of(pair.a, MessageType::initiation);
  EXPECT_GE(initiations.size(), 17U);
  EXPECT_LE(initiations.size(), 18U);
  for (std::size_t i = 1; i < initiations.size(); ++i) {
    EXPECT_GE(initiations[i] - initiations[i - 1], kRekeyTimeout);
    EXPECT_LE(initiations[i] - initiations[i - 1], kRekeyTimeout + kRekeyTimeoutJitter);
  }
  EXPECT_LT(initiations.back(), seconds(90));
  EXPECT_EQ(pair.a.count(EventType::handshake_failed), 1U);
  EXPECT_EQ(pair.a.device->poll_timeout().at, kNever);
  // The next packet starts again; what was staged before is gone.
  pair.net.filter = nullptr;
  pair.net.send(pair.a, 0, inner_packet(60, 9));
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.b.received, std::vector(1, inner_packet(60, 9)));
}

TEST(Timers, HandshakesAreNoFasterThanRekeyTimeout) {
  Pair pair;
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  for (int i = 0; i < 1000; ++i) {
    pair.net.send(pair.a, 0, inner_packet(60));
    pair.net.run_for(milliseconds(10));
  }
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 2U);
}

TEST(Timers, PersistentKeepalive) {
  PeerConfig config;
  config.persistent_keepalive_s = 25;
  Pair pair;
  pair.establish();
  const std::size_t before = pair.a.count_sent(MessageType::data);
  ASSERT_EQ(pair.a.device->update_peer(0, Pair::of(pair.b, config), pair.net.now()), PeerError::none);
  pair.net.run(seconds(110));
  EXPECT_EQ(pair.a.count_sent(MessageType::data), before + 4);
  pair.net.run(seconds(1000));
  EXPECT_EQ(pair.a.count(EventType::session_down), 0U) << "it keeps the session renewed";
  EXPECT_LE(pair.a.count_sent(MessageType::initiation), 9U);
  EXPECT_GE(pair.a.count_sent(MessageType::initiation), 7U);
}

TEST(Timers, PersistentKeepaliveTriesForEver) {
  PeerConfig config;
  config.persistent_keepalive_s = 25;
  Pair pair(config);
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  pair.net.run(seconds(1000));
  EXPECT_GE(pair.a.count(EventType::handshake_failed), 8U);
  pair.net.filter = nullptr;
  pair.net.run_for(seconds(31));
  EXPECT_EQ(pair.a.count(EventType::session_up), 1U);
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 0U) << "B knows no address to keep alive";
}

TEST(Timers, PathSwitchPeersRetryQuickly) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run(seconds(100));
  const auto initiations = times_of(pair.a, MessageType::initiation);
  ASSERT_GE(initiations.size(), 8U);
  const std::vector<Duration> expected{Duration{},         milliseconds(250),  milliseconds(750),
                                       milliseconds(1750), milliseconds(3750), milliseconds(7750)};
  EXPECT_EQ(std::vector(initiations.begin(), initiations.begin() + 6), expected);
  EXPECT_EQ(pair.a.count(EventType::handshake_failed), 1U);
}

TEST(Timers, FreshInitiationsOfAPathSwitchPeerKeepTheirDistance) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.establish();
  for (int i = 0; i < 20; ++i) {
    pair.a.device->drop_sessions(0, pair.net.now());
    pair.a.device->want_session(0, pair.net.now());
    pair.net.run_for(milliseconds(5));
  }
  pair.net.run_for(seconds(1));
  const auto initiations = times_of(pair.a, MessageType::initiation);
  for (std::size_t i = 1; i < initiations.size(); ++i)
    EXPECT_GE(initiations[i] - initiations[i - 1], kPathInitiationSpacing);
  EXPECT_EQ(pair.b.count(DropReason::wg_rate_limited), 0U);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
}

// What workers report coarsely moves the same timers, at worst with one keepalive more.
TEST(Timers, CoarseActivityKeepsTheRules) {
  DeviceConfig coarse;
  coarse.activity_granularity = milliseconds(100);
  Pair pair({}, coarse, coarse);
  pair.establish();
  for (int i = 0; i < 300; ++i) {  // a conversation, faster than the granularity
    pair.net.send(pair.a, 0, inner_packet(60));
    pair.net.run_for(milliseconds(15));
    pair.net.send(pair.b, 0, inner_packet(60));
    pair.net.run_for(milliseconds(15));
  }
  const std::size_t a = pair.a.count_sent(MessageType::data), b = pair.b.count_sent(MessageType::data);
  pair.net.run_for(seconds(60));
  EXPECT_LE(pair.a.count_sent(MessageType::data), a + 1);
  EXPECT_LE(pair.b.count_sent(MessageType::data), b + 1);
  EXPECT_GE(pair.a.count_sent(MessageType::data), a + 1) << "the last word was B's";
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U) << "and never a handshake";
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 0U);
  // Silence is still noticed.
  pair.net.filter = [](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) { return false; };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(16));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 2U);
}

}  // namespace
}  // namespace penstock::wireguard
