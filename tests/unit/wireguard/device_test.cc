// Two devices and a link under virtual time: sessions, peers, and what goes through them.
#include "dataplane/core/wireguard/device.h"

#include <gtest/gtest.h>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

TEST(Device, HandshakeAndDataBothWays) {
  Pair pair;
  pair.net.send(pair.a, 0, inner_packet(100, 1));
  pair.net.run_for(seconds(1));
  ASSERT_EQ(pair.b.received.size(), 1U);
  EXPECT_EQ(pair.b.received[0], inner_packet(100, 1));
  EXPECT_EQ(pair.a.count(EventType::session_up), 1U);
  EXPECT_EQ(pair.b.count(EventType::session_up), 1U);
  pair.net.send(pair.b, 0, inner_packet(1280, 2));
  pair.net.run_for(seconds(1));
  ASSERT_EQ(pair.a.received.size(), 1U);
  EXPECT_EQ(pair.a.received[0], inner_packet(1280, 2));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
  EXPECT_EQ(pair.b.count_sent(MessageType::response), 1U);
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 0U);
}

TEST(Device, EveryLengthUpToTheMtuAndBeyond) {
  Pair pair;
  pair.establish();
  for (std::size_t length = 20; length <= 1400; length += 7) {
    pair.net.send(pair.a, 0, inner_packet(length, static_cast<std::uint8_t>(length)));
    pair.net.run_for(milliseconds(20));
    ASSERT_FALSE(pair.b.received.empty());
    ASSERT_EQ(pair.b.received.back(), inner_packet(length, static_cast<std::uint8_t>(length)));
  }
}

TEST(Device, PaddingStaysWithinTheMtu) {
  EXPECT_EQ(padded_length(0, 1280), 0U);
  EXPECT_EQ(padded_length(1, 1280), 16U);
  EXPECT_EQ(padded_length(16, 1280), 16U);
  EXPECT_EQ(padded_length(1270, 1280), 1280U);
  EXPECT_EQ(padded_length(1271, 1277), 1277U);
  EXPECT_EQ(padded_length(1277, 1277), 1277U);
  EXPECT_EQ(padded_length(1300, 1280), 1300U);
}

TEST(Device, StagedPacketsKeepTheirOrderAndAreBounded) {
  DeviceConfig config;
  config.staged_packets = 5;
  Pair pair({}, config);
  for (std::uint8_t i = 0; i < 8; ++i) pair.net.send(pair.a, 0, inner_packet(40, i));
  EXPECT_EQ(pair.a.count(DropReason::wg_queue_full), 3U);
  pair.net.run_for(seconds(1));
  ASSERT_EQ(pair.b.received.size(), 5U);
  for (std::uint8_t i = 0; i < 5; ++i) EXPECT_EQ(pair.b.received[i], inner_packet(40, i));
  EXPECT_EQ(pair.a.count_sent(MessageType::data), 5U) << "no keepalive: the data confirms the session";
}

TEST(Device, NoEndpointIsSaidSo) {
  Pair pair;
  pair.net.send(pair.b, 0, inner_packet(40));  // B was never told where A is
  EXPECT_EQ(pair.b.count(DropReason::wg_no_endpoint), 1U);
  EXPECT_EQ(pair.b.device->poll_timeout().at, kNever);
  // Being told later starts what was wanted.
  pair.b.device->set_endpoint(0, Path{{}, pair.a.address, 0}, pair.net.now());
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.b.count(EventType::session_up), 1U);
}

TEST(Device, InitiatorSendsAKeepaliveWhenItHasNothingElse) {
  Pair pair;
  pair.a.device->want_session(0, pair.net.now());
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.a.count_sent(MessageType::data), 1U);
  EXPECT_EQ(pair.b.count(DropReason::wg_keepalive), 1U);
  EXPECT_EQ(pair.b.count(EventType::session_up), 1U);
}

TEST(Device, PresharedKeysMustAgree) {
  PeerConfig with_key;
  with_key.preshared_key.bytes[5] = 9;
  Pair same(with_key);
  same.establish();

  Pair different(with_key);
  PeerConfig other = Pair::of(different.a, {}, false);
  other.preshared_key.bytes[5] = 10;
  EXPECT_EQ(different.b.device->update_peer(0, other, different.net.now()), PeerError::none);
  different.net.send(different.a, 0, inner_packet(40));
  different.net.run_for(seconds(20));
  EXPECT_GE(different.a.count(DropReason::wg_handshake_invalid), 3U);
  EXPECT_EQ(different.a.count(EventType::session_up), 0U);
  EXPECT_EQ(different.b.count(EventType::session_up), 0U);
}

// trap: paths-4
TEST(Device, ChangedPresharedKeyIsNoticed) {
  PeerConfig old_key;
  old_key.preshared_key.bytes[0] = 1;
  PeerConfig new_key;
  new_key.preshared_key.bytes[0] = 2;

  Pair pair(old_key);
  pair.establish();
  ASSERT_EQ(pair.a.device->update_peer(0, Pair::of(pair.b, new_key), pair.net.now()), PeerError::none);
  ASSERT_EQ(pair.b.device->update_peer(0, Pair::of(pair.a, new_key, false), pair.net.now()), PeerError::none);
  EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << "the established session goes on";
  pair.a.device->drop_sessions(0, pair.net.now());
  pair.net.run_for(seconds(6));
  EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << "the next handshake uses the new key";

  // A handshake under way with the old key starts anew with the new one, without waiting for its retry.
  Pair waiting(old_key);
  ASSERT_EQ(waiting.b.device->update_peer(0, Pair::of(waiting.a, new_key, false), waiting.net.now()), PeerError::none);
  waiting.net.send(waiting.a, 0, inner_packet(40));
  waiting.net.run_for(milliseconds(500));
  EXPECT_EQ(waiting.b.received.size(), 0U);
  ASSERT_EQ(waiting.a.device->update_peer(0, Pair::of(waiting.b, new_key), waiting.net.now()), PeerError::none);
  waiting.net.run_for(milliseconds(500));
  EXPECT_EQ(waiting.b.received.size(), 1U);
}

TEST(Device, UnknownPeersGetNoAnswer) {
  Pair pair;
  pair.b.device->remove_peer(0, pair.net.now());
  pair.net.send(pair.a, 0, inner_packet(40));
  pair.net.run_for(seconds(4));
  EXPECT_EQ(pair.b.count(DropReason::wg_unknown_peer), 1U);
  EXPECT_TRUE(pair.b.sent_types.empty());
}

TEST(Device, RemovedPeersLeaveNothing) {
  Pair pair;
  pair.establish();
  pair.b.device->remove_peer(0, pair.net.now());
  EXPECT_EQ(pair.b.device->peer_info(0), std::nullopt);
  EXPECT_EQ(pair.b.device->peer_count(), 0U);
  EXPECT_EQ(pair.b.device->poll_timeout().at, kNever);
  pair.net.send(pair.a, 0, inner_packet(40));
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.b.count(DropReason::wg_unknown_index), 1U);
  // Added again: works as if new.
  EXPECT_EQ(pair.b.device->add_peer(Pair::of(pair.a, {}, false), pair.net.now()).error, PeerError::none);
  pair.net.run_for(seconds(20));
  EXPECT_TRUE(pair.delivers(pair.a, pair.b));
}

TEST(Device, RefusesPeersItCannotServe) {
  Pair pair;
  const Now now = pair.net.now();
  PeerConfig config = Pair::of(pair.b);
  EXPECT_EQ(pair.a.device->add_peer(config, now).error, PeerError::key_known);
  config.public_key = pair.a.device->public_key();
  EXPECT_EQ(pair.a.device->add_peer(config, now).error, PeerError::own_key);
  config.public_key = {};
  EXPECT_EQ(pair.a.device->add_peer(config, now).error, PeerError::key_invalid);
  EXPECT_EQ(pair.a.device->update_peer(0, config, now), PeerError::key_invalid);
  EXPECT_EQ(pair.a.device->update_peer(7, config, now), PeerError::unknown_peer);
  for (std::uint64_t i = 1; i < 16; ++i) {
    config.public_key = public_key(private_key(1000 + i));
    EXPECT_EQ(pair.a.device->add_peer(config, now).error, PeerError::none);
  }
  config.public_key = public_key(private_key(2000));
  EXPECT_EQ(pair.a.device->add_peer(config, now).error, PeerError::table_full);
  // A slot becomes free, and is used again.
  pair.a.device->remove_peer(3, now);
  EXPECT_EQ(pair.a.device->add_peer(config, now).peer, 3U);
  EXPECT_EQ(pair.a.device->find_peer(config.public_key), 3U);
}

TEST(Device, SlotsAreReusedAsLateAsPossible) {
  SeededRandom random(3);
  DeviceConfig config;
  config.private_key = private_key(1);
  config.max_peers = 4;
  Device device(config, random);
  const auto add = [&](std::uint64_t seed) {
    PeerConfig peer;
    peer.public_key = public_key(private_key(seed));
    return device.add_peer(peer, time_at({})).peer;
  };
  EXPECT_EQ(add(10), 0U);
  device.remove_peer(0, time_at({}));
  EXPECT_EQ(add(11), 1U);
  EXPECT_EQ(add(12), 2U);
  device.remove_peer(2, time_at({}));
  EXPECT_EQ(add(13), 3U);
  EXPECT_EQ(add(14), 0U);
  EXPECT_EQ(add(15), 2U);
}

TEST(Device, PeerInfoTellsNoSecret) {
  PeerConfig config;
  config.preshared_key.bytes[0] = 1;
  Pair pair(config);
  pair.establish();
  const auto info = pair.a.device->peer_info(0);
  ASSERT_TRUE(info);
  EXPECT_TRUE(info->config.preshared_key.is_zero());
  EXPECT_EQ(info->config.public_key, pair.b.device->public_key());
  EXPECT_EQ(info->endpoint->remote, pair.b.address);
  EXPECT_TRUE(info->session);
  EXPECT_TRUE(info->initiator);
  EXPECT_FALSE(info->handshaking);
  EXPECT_EQ(info->last_handshake->seconds, kEpoch.seconds);
  EXPECT_EQ(info->traffic.sent_packets, 1U);
  EXPECT_EQ(info->traffic.sent_bytes, 64U + kDataOverhead);
  EXPECT_EQ(info->traffic.received_packets, 1U);
}

// trap: paths-1
TEST(Device, TwoPeersBehindOneAddressAndPort) {
  Network net(5);
  Node& gateway = net.add("gateway", "203.0.113.1:2000");
  Node& one = net.add("one", "198.51.100.1:1000");
  Node& two = net.add("two", "198.51.100.2:1000");
  for (Node* client : {&one, &two}) {
    ASSERT_EQ(client->device->add_peer(Pair::of(gateway), net.now()).error, PeerError::none);
    ASSERT_EQ(gateway.device->add_peer(Pair::of(*client, {}, false), net.now()).error, PeerError::none);
  }
  // A NAT so short of ports that both clients appear at the same one; replies go to both, and the wrong one drops.
  const Endpoint shared = endpoint("192.0.2.9:4000");
  net.filter = [&](Endpoint& source, Endpoint& destination, std::vector<std::uint8_t>& bytes) {
    if (destination == gateway.address) source = shared;
    if (destination == shared) {
      net.inject(source, one.address, bytes);
      net.inject(source, two.address, bytes);
      return false;
    }
    return true;
  };
  for (std::uint8_t round = 0; round < 5; ++round) {
    net.send(one, 0, inner_packet(50, 1));
    net.send(two, 0, inner_packet(50, 2));
    net.run_for(seconds(7));
    net.send(gateway, 0, inner_packet(60, 1));
    net.send(gateway, 1, inner_packet(60, 2));
    net.run_for(seconds(1));
  }
  EXPECT_EQ(one.received, std::vector(5, inner_packet(60, 1)));
  EXPECT_EQ(two.received, std::vector(5, inner_packet(60, 2)));
  EXPECT_EQ(gateway.device->peer_info(0)->traffic.received_packets, 5U);
  EXPECT_EQ(gateway.device->peer_info(1)->traffic.received_packets, 5U);
  EXPECT_EQ(gateway.received.size(), 10U);
  EXPECT_EQ(gateway.device->peer_info(0)->endpoint->remote, shared);
}

// trap: paths-20 (a clock that steps back)
TEST(Device, ClockSetBackLocksNobodyOut) {
  for (const bool persisted : {true, false}) {
    DeviceConfig config;
    config.private_key = private_key(77);
    Pair pair({}, config);
    pair.establish();
    config.last_timestamp = persisted ? pair.a.device->last_timestamp() : Timestamp{};
    pair.net.epoch.seconds -= 3600;  // and the initiator restarts
    pair.a.device = std::make_unique<Device>(config, *pair.a.random);
    ASSERT_EQ(pair.a.device->add_peer(Pair::of(pair.b), pair.net.now()).error, PeerError::none);
    pair.net.run_for(seconds(1));
    EXPECT_EQ(pair.delivers(pair.a, pair.b), persisted);
    EXPECT_EQ(pair.b.count(DropReason::wg_handshake_replay), persisted ? 0U : 1U);
  }
}

TEST(Device, ClockSetBackWhileRunning) {
  Pair pair;
  pair.establish();
  for (int round = 0; round < 5; ++round) {
    pair.net.epoch.seconds -= 1000;
    pair.a.device->drop_sessions(0, pair.net.now());
    pair.net.run_for(seconds(6));
    EXPECT_TRUE(pair.delivers(pair.a, pair.b));
  }
  EXPECT_EQ(pair.b.count(DropReason::wg_handshake_replay), 0U);
}

}  // namespace
}  // namespace penstock::wireguard
