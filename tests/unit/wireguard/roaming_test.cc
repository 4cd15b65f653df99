// Where a peer is believed to be: who may move an endpoint, and who may not.
#include <gtest/gtest.h>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

const Endpoint kElsewhere = Endpoint::parse("192.0.2.50:5000").value();

// A's packets appear to come from `as`, and what is sent there reaches A.
void move_a(Pair& pair, const Endpoint& as) {
  pair.net.filter = [&pair, as](Endpoint& source, Endpoint& destination, std::vector<std::uint8_t>&) {
    if (source == pair.a.address) source = as;
    if (destination == as) destination = pair.a.address;
    return true;
  };
}

Endpoint known_at_b(Pair& pair) {
  return pair.b.device->data_path().endpoint(0).value().remote;
}

TEST(Roaming, StandardPeerMovesWithItsData) {
  Pair pair;
  pair.establish();
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  move_a(pair, kElsewhere);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
  EXPECT_EQ(known_at_b(pair), kElsewhere);
  EXPECT_EQ(pair.b.count(EventType::endpoint_changed), 2U);
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
}

TEST(Roaming, StandardPeerMovesWithItsKeepalive) {
  Pair pair;
  pair.establish();
  move_a(pair, kElsewhere);
  pair.a.device->send_keepalive(0, std::nullopt, pair.net.now());
  pair.net.run_for(seconds(1));
  EXPECT_EQ(known_at_b(pair), kElsewhere);
}

TEST(Roaming, StandardPeerMovesWithHandshakes) {
  Pair pair;
  pair.establish();
  move_a(pair, kElsewhere);
  pair.a.device->drop_sessions(0, pair.net.now());
  pair.net.run_for(seconds(6));
  pair.a.device->want_session(0, pair.net.now());
  pair.net.run_for(milliseconds(11));  // the initiation has arrived, nothing else
  EXPECT_EQ(known_at_b(pair), kElsewhere);
}

// A discarded duplicate, a forgery, an old or replayed handshake: none of them moves anything.
TEST(Roaming, NothingThatIsDroppedMovesAnEndpoint) {
  Pair pair;
  std::vector<std::vector<std::uint8_t>> seen;
  pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>& bytes) {
    if (source == pair.a.address) seen.push_back(bytes);
    return true;
  };
  pair.establish();
  pair.delivers(pair.a, pair.b);
  ASSERT_GE(seen.size(), 3U);
  const Path from{pair.b.address, kElsewhere, 0};
  const auto before = pair.b.device->peer_info(0);
  for (const auto& original : seen) {
    auto copy = original;
    EXPECT_NE(pair.b.device->handle_datagram(copy, from, pair.net.now()).reason, DropReason::none);
    for (std::size_t bit = 0; bit < original.size() * 8; bit += 13) {
      copy = original;
      copy[bit / 8] = static_cast<std::uint8_t>(copy[bit / 8] ^ (1U << (bit % 8)));
      EXPECT_NE(pair.b.device->handle_datagram(copy, from, pair.net.now()).reason, DropReason::none);
    }
  }
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  EXPECT_EQ(pair.b.device->peer_info(0)->last_received, before->last_received);
  EXPECT_EQ(pair.b.device->peer_info(0)->traffic.received_packets, before->traffic.received_packets);
}

TEST(Roaming, PathSwitchPeerDoesNotMoveByItself) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.establish();
  move_a(pair, kElsewhere);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << "a copy over another path is good data";
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  // Not by a renewal either, while a session is live …
  pair.a.device->data_path().sending_session(0, pair.net.now().monotonic)->send_counter.store(kRekeyAfterMessages + 1);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.b.count(EventType::session_renewed), 1U);
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  // … but by the path switch.
  pair.b.device->set_endpoint(0, {pair.b.address, kElsewhere, 0}, pair.net.now());
  EXPECT_EQ(known_at_b(pair), kElsewhere);
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
  EXPECT_EQ(pair.b.count(EventType::endpoint_changed), 2U);
}

TEST(Roaming, PathSwitchPeerIsFoundAnewWhenNoSessionIsLive) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.establish();
  pair.net.run(seconds(200));
  move_a(pair, kElsewhere);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
  EXPECT_EQ(known_at_b(pair), kElsewhere);
}

// The initiation came by a path that carries nothing back, its copy by another: the first message shows the one in use.
TEST(Roaming, FirstMessageOfASessionShowsThePathInUse) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.a.device->want_session(0, pair.net.now());
  const auto message = pair.a.device->poll_output()->bytes;
  EXPECT_EQ(pair.b.device->handle_handshake(message, {pair.b.address, kElsewhere, 0}, pair.net.now()),
            DropReason::none);
  EXPECT_EQ(known_at_b(pair), kElsewhere);
  EXPECT_EQ(pair.b.device->handle_handshake(message, {pair.b.address, pair.a.address, 0}, pair.net.now()),
            DropReason::none);
  const auto lost = pair.b.device->poll_output();
  const auto response = pair.b.device->poll_output();
  ASSERT_TRUE(response);
  EXPECT_EQ(pair.a.device->handle_handshake(response->bytes, {pair.a.address, pair.b.address, 0}, pair.net.now()),
            DropReason::none);
  pair.net.run_for(seconds(1));
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  EXPECT_TRUE(pair.delivers(pair.b, pair.a));
}

TEST(Roaming, PinnedPeerStaysWhereItsTunnelWasSetUp) {
  PeerConfig config;
  config.pinned_endpoint = true;
  Pair pair(config);
  pair.establish();
  pair.b.device->set_endpoint(0, {pair.b.address, kElsewhere, 0}, pair.net.now());
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  move_a(pair, kElsewhere);
  pair.delivers(pair.a, pair.b);
  EXPECT_EQ(known_at_b(pair), pair.a.address);
  // Set up again after its end, from elsewhere.
  pair.net.filter = nullptr;
  pair.net.run(seconds(200));
  move_a(pair, kElsewhere);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
  EXPECT_EQ(known_at_b(pair), kElsewhere);
}

TEST(Roaming, ResponsesGoWhereTheInitiationCameFrom) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.establish();
  pair.a.device->data_path().sending_session(0, pair.net.now().monotonic)->send_counter.store(kRekeyAfterMessages + 1);
  pair.a.device->send(0, inner_packet(60), pair.net.now());
  const Path from{pair.b.address, kElsewhere, 0};
  while (auto out = pair.a.device->poll_output()) {
    if (out->bytes[0] != 1) continue;
    EXPECT_EQ(pair.b.device->handle_handshake(out->bytes, from, pair.net.now()), DropReason::none);
  }
  const auto answer = pair.b.device->poll_output();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->bytes[0], 2);
  EXPECT_EQ(answer->path, from);
}

TEST(Roaming, KeepaliveOverANamedPath) {
  Pair pair;
  pair.establish();
  const Path path{pair.a.address, kElsewhere, 3};
  EXPECT_TRUE(pair.a.device->send_keepalive(0, path, pair.net.now()));
  EXPECT_EQ(pair.a.device->poll_output()->path, path);
  EXPECT_FALSE(pair.a.device->send_keepalive(5, path, pair.net.now()));
}

}  // namespace
}  // namespace penstock::wireguard
