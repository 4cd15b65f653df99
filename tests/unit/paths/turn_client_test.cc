#include <gtest/gtest.h>

#include "tests/unit/paths/turn_bench.h"

namespace penstock::paths {
namespace {

TEST_F(TurnClientTest, AllocatesPermitsAndCarriesDataBothWays) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  ASSERT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->mapped(), kClient);
  EXPECT_NE(client->number(), 0u);
  EXPECT_EQ(count(TurnEvent::Kind::allocated), 1u);

  // Payload lengths around the padding.
  for (std::size_t size : {0u, 1u, 2u, 3u, 4u, 1400u}) {
    ASSERT_TRUE(send_to_peer(kPeer, std::vector<std::uint8_t>(size, 7)));
    run(50ms);
    ASSERT_EQ(at_peer.back().bytes.size(), size);
    EXPECT_EQ(at_peer.back().from, client->relayed());
  }
  // From a port nobody told us: learnt from the Data indication, then bound.
  const Endpoint other_port{kPeer.address, 1234};
  send_from_peer(other_port, {1, 2, 3});
  run(50ms);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(received[0].first, other_port);
  EXPECT_FALSE(by_channel[0]);
  client->bind_channel(other_port, now());
  run(50ms);
  EXPECT_EQ(count(TurnEvent::Kind::channel_bound), 1u);
  send_from_peer(other_port, {4, 5});
  ASSERT_TRUE(send_to_peer(other_port, {6, 7, 8}));
  run(50ms);
  ASSERT_EQ(received.size(), 2u);
  EXPECT_TRUE(by_channel[1]);
  EXPECT_EQ(received[1].second, (std::vector<std::uint8_t>{4, 5}));
  EXPECT_EQ(at_peer.back().bytes, (std::vector<std::uint8_t>{6, 7, 8}));
  EXPECT_EQ(server->statistics().channel_up, 1u);
}

TEST_F(TurnClientTest, DataOfUnpermittedAddressesIsRefused) {
  make_client().start(now());
  run(100ms);
  EXPECT_FALSE(send_to_peer(kPeer, {1}));
  send_from_peer(kPeer, {1});
  run(100ms);
  EXPECT_TRUE(received.empty());
  EXPECT_TRUE(at_peer.empty());
}

// trap: paths-9 - an idle allocation, its permissions and channels live for ever
TEST_F(TurnClientTest, EverythingIsRefreshedWhileIdle) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  client->bind_channel(kPeer, now());
  for (int i = 0; i < 24; ++i) {
    run(5min);
    // A peer that says nothing but a keepalive now and then keeps its channel.
    ASSERT_TRUE(send_to_peer(kPeer, {9}));
    send_from_peer(kPeer, {9});
    run(50ms);
    ASSERT_EQ(by_channel.size(), static_cast<std::size_t>(i + 1));
    EXPECT_TRUE(by_channel.back());
  }
  EXPECT_EQ(client->allocations(), 1u);
  EXPECT_EQ(at_peer.size(), 24u);
  EXPECT_EQ(count(TurnEvent::Kind::lost), 0u);
  // Silent relay: a sign of life at least every 25 s keeps the NAT open.
  EXPECT_GE(sent, 2u * 3600 / 25 - 30);
}

TEST_F(TurnClientTest, StaleNonceAndChangedRealmAreFollowed) {
  server->config().nonce_lifetime = 60s;
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(10min);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 1u);
  server->config().realm = "other.test";
  server->restart(now());
  run(30s);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
}

// What was made at one time is refreshed at one time; all these requests are refused with the same new nonce, and only
// the first of the answers has news in it.
TEST_F(TurnClientTest, ANewNonceReachesAllRequestsUnderWay) {
  server->config().nonce_lifetime = 200s;
  make_client().start(now());
  run(100ms);
  constexpr unsigned kPeers = 4;
  const auto peer = [](unsigned n) { return Endpoint{IpAddress::v4(kPeer.address.v4_value() + n), kPeer.port}; };
  for (unsigned n = 0; n < kPeers; ++n) client->permit(peer(n).address, now());
  run(100ms);
  for (unsigned n = 0; n < kPeers; ++n) client->bind_channel(peer(n), now());
  run(100ms);
  for (int minute = 0; minute < 40; ++minute) {
    for (int i = 0; i < 4; ++i) {  // a relay that is heard from is not asked for a sign of life, which would learn it
      run(15s);
      send_from_peer(peer(0), {9});
    }
    for (unsigned n = 0; n < kPeers; ++n) {
      ASSERT_TRUE(send_to_peer(peer(n), {9})) << "minute " << minute << ", peer " << n;
      ASSERT_EQ(client->overhead(peer(n)), stun::kChannelDataHeaderSize) << "minute " << minute << ", peer " << n;
    }
  }
  EXPECT_EQ(count(TurnEvent::Kind::permission_changed), kPeers);
  EXPECT_EQ(count(TurnEvent::Kind::channel_bound), kPeers);
  EXPECT_EQ(client->allocations(), 1u);
}

// trap: paths-13 - a relay that was restarted knows nothing; the allocation is made anew, with a new number
TEST_F(TurnClientTest, RelayRestartIsNoticedAtOnceOnSuspicion) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(90s);
  const std::uint32_t before = client->number();
  server->restart(now());
  client->suspect(now());
  run(300ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_NE(client->number(), before);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
  ASSERT_EQ(count(TurnEvent::Kind::lost), 1u);
}

// trap: paths-13 - also where an answer takes longer than suspicions are apart, and the first one is a new nonce
TEST_F(TurnClientTest, RelayRestartIsNoticedFarAway) {
  for (const Duration way : {100ms, 240ms, 260ms, 400ms, 1000ms}) {
    now_ += 1h;
    latency = way;
    make_server();
    make_client().start(now());
    client->permit(kPeer.address, now());
    run(90s);
    ASSERT_EQ(client->state(), TurnClient::State::allocated);
    const std::uint32_t before = client->number();
    server->restart(now());
    const Instant restarted = now();
    while (now() - restarted < 12s && (client->number() == before || !client->can_send(kPeer.address, now()))) {
      client->suspect(now());
      run(50ms);
    }
    // A new nonce, two refusals (of the refresh, and of a move), an allocation, its permission, and a repetition.
    EXPECT_LE(now() - restarted, 6 * 2 * way + 1s) << way / 1ms << " ms each way";
    EXPECT_EQ(client->allocations(), 2u);
  }
}

// trap: paths-13 - also when nobody suspects anything
TEST_F(TurnClientTest, RelayRestartIsNoticedWhileIdle) {
  make_client().start(now());
  run(90s);
  server->restart(now());
  run(TurnClient::kKeepalive + 500ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
}

// The portal's stream is dialled anew on suspicion, and its Welcome brings fresh credentials just while an allocation
// is being made. Two requests of different users on one 5-tuple: the second would be refused for as long as the first's
// allocation lives.
TEST_F(TurnClientTest, NewCredentialsDoNotOvertakeARequestUnderWay) {
  server->config().passwords["user2"] = "secret2";
  for (const Duration under_way : {5ms, 15ms, 25ms, 35ms}) {
    make_server();
    server->config().passwords["user2"] = "secret2";
    make_client().start(now());
    run(under_way);
    ASSERT_EQ(client->state(), TurnClient::State::allocating);
    client->update_credentials({"user2", "secret2", ""}, now());
    run(200ms);
    EXPECT_EQ(client->state(), TurnClient::State::allocated) << under_way / 1ms;
    EXPECT_EQ(server->statistics().allocations, 1u);
    EXPECT_EQ(server->statistics().mismatches, 0u);
  }
}

// Credentials that the relay does not take any more are left for the newer ones at once.
TEST_F(TurnClientTest, NewerCredentialsAreTriedWhenTheFormerAreRefused) {
  server->config().passwords = {{"user2", "secret2"}};
  make_client().start(now());
  run(25ms);
  client->update_credentials({"user2", "secret2", ""}, now());
  run(300ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(count(TurnEvent::Kind::credentials_rejected), 0u);
}

// What stands on our 5-tuple under the name we had before can be deleted by that name alone (RFC 8656 §7.1, 441).
TEST_F(TurnClientTest, AnAllocationUnderOurFormerNameIsDeletedByIt) {
  server->config().passwords["user2"] = "secret2";
  TurnConfig config;
  config.mobility = false;
  make_client(config).start(now());
  run(1s);
  ASSERT_EQ(client->state(), TurnClient::State::allocated);
  client->update_credentials({"user2", "secret2", ""}, now());
  client->handle_local_change(now());
  run(300ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
  EXPECT_EQ(server->allocations(), 1u);
  EXPECT_EQ(count(TurnEvent::Kind::credentials_rejected), 0u);
}

// ... or the one before: a client that goes to another network and back again finds its first mapping there.
TEST_F(TurnClientTest, AnAllocationUnderAnOlderNameIsDeletedByIt) {
  for (const char* name : {"user2", "user3", "user4"}) server->config().passwords[name] = "secret";
  TurnConfig config;
  config.mobility = false;
  make_client(config).start(now());
  run(1s);
  const Endpoint home = client_address;
  client->update_credentials({"user2", "secret", ""}, now());
  client_address.port = 41111;
  client->handle_local_change(now());
  run(1s);
  ASSERT_EQ(server->allocations(), 2u);
  client->update_credentials({"user3", "secret", ""}, now());
  client_address = home;
  client->handle_local_change(now());
  run(500ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(server->allocations(), 2u);
  EXPECT_EQ(count(TurnEvent::Kind::credentials_rejected), 0u);
}

// trap: paths-14 - a relay that is gone is tried for ever, with back-off, and used when it returns
TEST_F(TurnClientTest, LostRelayIsTriedForEverWithBackoff) {
  make_client().start(now());
  run(1s);
  client_to_server = false;
  run(10min);
  EXPECT_NE(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(count(TurnEvent::Kind::lost), 1u);
  const std::size_t before = sent;
  run(1h);
  EXPECT_GT(sent - before, 60u);
  EXPECT_LT(sent - before, 400u);
  client_to_server = true;
  run(110s);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

// trap: paths-10 - requests fail but data comes: the relay is not dead
TEST_F(TurnClientTest, RelayThatStillDeliversIsNotDeclaredDead) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  client_to_server = false;
  for (int i = 0; i < 120; ++i) {
    send_from_peer(kPeer, {1});
    run(1s);
  }
  EXPECT_EQ(count(TurnEvent::Kind::lost), 0u);
  client_to_server = true;
  run(1min);
  EXPECT_EQ(client->allocations(), 1u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
}

// trap: paths-10 - we were suspended or busy, not the relay
TEST_F(TurnClientTest, OurOwnSilenceIsNotHeldAgainstTheRelay) {
  make_client().start(now());
  run(100ms);
  client->suspect(now());
  client_to_server = false;
  run(7s);  // all copies of a request are sent, the last wait runs (the measured round trip makes it short)
  client_to_server = true;
  now_ += 2min;
  wire.clear();
  run(1s);
  EXPECT_EQ(count(TurnEvent::Kind::lost), 0u);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

// A NAT that forgets us every few seconds is no flipping one: each time there is another allocation at once.
TEST_F(TurnClientTest, ResetsSomeSecondsApartAreNotWaitedOut) {
  server->config().mobility = false;
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(1s);
  for (unsigned reset = 1; reset <= 5; ++reset) {
    client_address.port = static_cast<std::uint16_t>(41000 + reset);
    client->suspect(now());
    run(300ms);
    EXPECT_EQ(client->state(), TurnClient::State::allocated) << reset;
    EXPECT_EQ(client->allocations(), reset + 1);
    run(6s);
  }
}

// trap: paths-11 - every packet from another port: allocations slow down instead of flooding the relay
TEST_F(TurnClientTest, FlippingNatDoesNotMakeAllocationAfterAllocation) {
  server->config().mobility = false;
  make_client().start(now());
  for (int i = 0; i < 600; ++i) {
    client_address.port = static_cast<std::uint16_t>(40000 + i);
    client->suspect(now());
    run(1s);
  }
  EXPECT_LT(server->statistics().allocations, 40u);
  run(5min);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

// trap: paths-12 - a number is not bound to another peer while a late message could carry it
TEST_F(TurnClientTest, ChannelNumbersCoolDownAcrossAllocations) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  std::map<std::uint16_t, std::pair<Endpoint, Instant>> last_use;
  for (std::uint16_t round = 0; round < 200; ++round) {
    run(100ms);
    client->bind_channel({kPeer.address, static_cast<std::uint16_t>(1000 + round)}, now());
    run(50ms);
    for (const auto& bytes : sent_bytes) {
      const auto message = stun::Message::parse(bytes);
      if (!message || message->method() != stun::Method::channel_bind) continue;
      const auto number = *message->channel_number();
      const auto peer = *message->xor_address(stun::Attribute::xor_peer_address);
      const auto known = last_use.find(number);
      if (known != last_use.end() && known->second.first != peer) {
        EXPECT_GE(now() - known->second.second, 15min) << "channel " << number;
      }
      last_use[number] = {peer, now()};
    }
    sent_bytes.clear();
    if (round % 3 == 0) {
      server->restart(now());
      client->suspect(now());
      run(90s);
    }
  }
  EXPECT_GT(last_use.size(), 40u);
}

TEST(TurnChannelsTest, NumbersRunOutRatherThanBeingUsedTooSoon) {
  TurnChannels channels;
  Instant now{1h};
  unsigned opened = 0;
  for (unsigned i = 0; i < 5000; ++i) {
    auto* channel = channels.open({kPeer.address, static_cast<std::uint16_t>(i + 1)}, now);
    if (channel == nullptr) break;
    ++opened;
    channels.release(channel->number, now);
  }
  EXPECT_EQ(opened, 4096u);
  EXPECT_EQ(channels.open(kPeer, now + 15min - 1s), nullptr);
  EXPECT_NE(channels.open(kPeer, now + 15min), nullptr);
}

// trap: paths-18 - ChannelData of a former allocation means nothing any more
TEST_F(TurnClientTest, LateChannelDataIsDropped) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  client->bind_channel(kPeer, now());
  run(90s);
  std::vector<std::uint8_t> late{0x40, 0x00, 0x00, 0x20, 4, 0, 0, 0};
  late.resize(36, 1);
  wire.push_back({now(), {kServer, client_address, late}});
  run(1ms);
  ASSERT_EQ(last_reason, DropReason::none);
  server->restart(now());
  client->suspect(now());
  run(500ms);
  received.clear();
  wire.push_back({now(), {kServer, client_address, late}});
  run(1ms);
  EXPECT_EQ(last_reason, DropReason::stun_unexpected);
  EXPECT_TRUE(received.empty());
}

}  // namespace
}  // namespace penstock::paths
