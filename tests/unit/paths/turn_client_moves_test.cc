// Moves of a TURN allocation (RFC 8016), and doing without them.
#include <gtest/gtest.h>

#include "tests/unit/paths/turn_bench.h"

namespace penstock::paths {
namespace {

TEST_F(TurnClientTest, MobilityKeepsTheRelayedAddress) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  client->bind_channel(kPeer, now());
  run(100ms);
  const Endpoint relayed = client->relayed();
  const std::uint32_t number = client->number();
  for (std::uint16_t i = 1; i <= 3; ++i) {
    client_address = {address("203.0.113.200"), static_cast<std::uint16_t>(50000 + i)};
    const Instant asked = now();
    client->handle_local_change(now());
    run(200ms);
    EXPECT_EQ(client->number(), number);
    EXPECT_EQ(client->relayed(), relayed);
    EXPECT_EQ(events.back().kind, TurnEvent::Kind::moved);
    EXPECT_EQ(events.back().since, asked);
    ASSERT_TRUE(send_to_peer(kPeer, {i & 0xff ? std::uint8_t{5} : std::uint8_t{6}}));
    send_from_peer(kPeer, {1});
    run(50ms);
    EXPECT_EQ(received.size(), i);
    EXPECT_EQ(at_peer.size(), i);
  }
  EXPECT_EQ(server->statistics().moves, 3u);
  EXPECT_EQ(count(TurnEvent::Kind::moved), 3u);
  EXPECT_EQ(client->allocations(), 1u);
}

// A way that has become longer than a request's patience: each request would be sent twice, which of a move some relays
// refuse, as the ticket was used up by the first. The patience has to grow with the first answer that was too late for it.
TEST_F(TurnClientTest, ALongerWayIsNotAskedTwiceForEver) {
  make_client().start(now());
  run(1s);
  latency = 130ms;
  client->suspect(now());  // repeated: nobody could know
  run(2s);
  for (int i = 0; i < 3; ++i) {
    const auto before = sent;
    client_address.port = static_cast<std::uint16_t>(42000 + i);
    client->handle_local_change(now());
    run(1s);
    EXPECT_EQ(sent - before, 1u) << i;
  }
  EXPECT_EQ(server->statistics().moves, 3u);
  EXPECT_EQ(client->allocations(), 1u);
}

// A NAT mapping that changed behind our back shows as 437: the ticket moves the allocation then, too.
TEST_F(TurnClientTest, MobilityAfterAMappingChangedUnseen) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(1s);
  client_address.port = 41111;
  client->suspect(now());
  run(200ms);
  EXPECT_EQ(client->allocations(), 1u);
  EXPECT_EQ(server->statistics().moves, 1u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
}

// A NAT forgets us a moment after a suspicion was answered well, and before that the allocation had been moved: where it
// was moved from the relay did not say. What the STUN tick sees then must be looked at, however short ago that was.
TEST_F(TurnClientTest, AMappingThatChangesRightAfterASuspicion) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(1s);
  client_address.port = 41111;
  client->suspect(now());
  run(2s);
  ASSERT_EQ(server->statistics().moves, 1u);
  for (std::uint16_t i = 1; i <= 3; ++i) {
    client->suspect(now());
    run(50ms);
    client_address.port = static_cast<std::uint16_t>(42000 + i);
    run(50ms);
    client->handle_mapped(client_address, now());
    run(100ms);
    EXPECT_EQ(server->statistics().moves, 1u + i);
    send_from_peer(kPeer, {1});
    run(50ms);
    EXPECT_EQ(received.size(), i);
    run(1s);
  }
  EXPECT_EQ(client->allocations(), 1u);
}

TEST_F(TurnClientTest, WithoutMobilityAChangeMakesANewAllocation) {
  server->config().mobility = false;
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(200ms);
  ASSERT_EQ(client->state(), TurnClient::State::allocated) << "405 to the ticket must not end the attempt";
  client_address.port = 41111;
  client->handle_local_change(now());
  run(300ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
}

// A NAT gives us back a mapping that an earlier allocation of ours was made from: the relay accepts a Refresh for that
// one. What tells them apart is where the relay sees us.
TEST_F(TurnClientTest, AnEarlierAllocationIsNotTakenForTheOneInUse) {
  server->config().mobility = false;
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(200ms);
  const Endpoint first = client_address;
  client_address.port = 41111;
  client->handle_local_change(now());
  run(300ms);
  ASSERT_EQ(client->allocations(), 2u);
  const std::uint32_t number = client->number();
  client_address = first;
  client->suspect(now());
  run(200ms);
  ASSERT_EQ(client->number(), number) << "the Refresh was refused: this tests nothing";
  client->handle_mapped(first, now());
  run(400ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 3u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
  ASSERT_TRUE(send_to_peer(kPeer, {5}));
  send_from_peer(kPeer, {1});
  run(50ms);
  EXPECT_EQ(at_peer.size(), 1u);
  EXPECT_EQ(received.size(), 1u);
  client->handle_mapped(first, now());  // where it was made from: nothing to do
  run(400ms);
  EXPECT_EQ(client->allocations(), 3u);
}

// An earlier process on the same port left an allocation behind.
TEST_F(TurnClientTest, ForeignAllocationOnOurFiveTupleIsCleared) {
  make_client().start(now());
  run(100ms);
  make_client().start(now());
  run(500ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(server->allocations(), 1u);
}

TEST_F(TurnClientTest, RefusalsAreWaitedOut) {
  struct Case {
    unsigned code;
    std::uint64_t most_in_ten_minutes;
  };
  for (const Case c : {Case{486, 14}, Case{508, 14}, Case{440, 6}, Case{442, 6}, Case{500, 22}, Case{403, 22}}) {
    make_server();
    server->config().refuse_allocations = c.code;
    sent_bytes.clear();
    make_client().start(now());
    run(10min);
    std::uint64_t requests = 0;
    for (const auto& bytes : sent_bytes) {
      const auto message = stun::Message::parse(bytes);
      requests += message && message->method() == stun::Method::allocate ? 1 : 0;
    }
    EXPECT_LE(requests, c.most_in_ten_minutes * 2) << c.code;
    EXPECT_GE(requests, 2u) << c.code;
    EXPECT_EQ(count(TurnEvent::Kind::unsupported) != 0, c.code == 440 || c.code == 442) << c.code;
    server->config().refuse_allocations = 0;
    run(12min);
    EXPECT_EQ(client->state(), TurnClient::State::allocated) << c.code;
    events.clear();
  }
}

TEST_F(TurnClientTest, WrongCredentialsAreReportedAndNewOnesTakenAtOnce) {
  TurnConfig config;
  config.credentials = {"user", "wrong", ""};
  make_client(config).start(now());
  run(2s);
  EXPECT_EQ(count(TurnEvent::Kind::credentials_rejected), 1u);
  EXPECT_LE(sent, 5u);
  client->update_credentials({"user", "secret", ""}, now());
  run(100ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

// Time-limited credentials carry their expiry in the user name; a live allocation belongs to the old name (441).
TEST_F(TurnClientTest, RenewedCredentialsDoNotDisturbALiveAllocation) {
  make_client().start(now());
  run(1s);
  server->config().passwords["user2"] = "secret2";
  client->update_credentials({"user2", "secret2", ""}, now());
  run(20min);
  EXPECT_EQ(client->allocations(), 1u);
  // The old name is no longer accepted: nothing can delete the old allocation, so it has to expire first.
  server->config().passwords.erase("user");
  run(25min);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
}

TEST_F(TurnClientTest, ForbiddenPeerDoesNotSpoilTheOthers) {
  server->config().forbidden = {address("203.0.113.66")};
  make_client().start(now());
  client->permit(address("203.0.113.66"), now());
  client->permit(kPeer.address, now());
  client->permit(address("2001:db8::1"), now());  // other family: never asked for
  run(10min);
  EXPECT_FALSE(client->can_send(address("203.0.113.66"), now()));
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
  EXPECT_EQ(client->allocations(), 1u);
}

TEST_F(TurnClientTest, Ipv6RelayedAddress) {
  TurnConfig config;
  config.relayed_family = stun::AddressFamily::ipv6;
  make_client(config).start(now());
  const Endpoint peer = endpoint("[2001:db8::7]:51820");
  client->permit(peer.address, now());
  run(200ms);
  ASSERT_TRUE(client->relayed().address.is_v6());
  ASSERT_TRUE(send_to_peer(peer, {1, 2, 3, 4, 5}));
  run(50ms);
  ASSERT_EQ(at_peer.size(), 1u);
  EXPECT_EQ(at_peer[0].bytes.size(), 5u);
}

TEST_F(TurnClientTest, CloseDeletesTheAllocation) {
  make_client().start(now());
  run(100ms);
  ASSERT_EQ(server->allocations(), 1u);
  client->close(now());
  run(100ms);
  EXPECT_EQ(server->allocations(), 0u);
  EXPECT_EQ(client->poll_timeout().at, kNever);
}

TEST_F(TurnClientTest, RetransmissionFollowsRfc8489) {
  client_to_server = false;
  make_client().start(now());
  const Instant start = now();
  std::vector<Duration> at{0ms};
  std::size_t before = 1;
  client->poll_output();
  while (now() - start < 40s && client->state() == TurnClient::State::allocating) {
    run(1ms);
    if (sent > before - 1) at.push_back(now() - start), before = sent + 1;
  }
  const std::vector<Duration> expected{0ms, 500ms, 1500ms, 3500ms, 7500ms, 15500ms, 31500ms};
  EXPECT_EQ(at, expected);
  EXPECT_EQ(now() - start, 39500ms);
}

// Answers with a wrong signature, of other transactions or without one are nobody's.
TEST_F(TurnClientTest, ForgedAnswersAreIgnored) {
  make_client().start(now());
  server_to_client = false;
  run(100ms);
  const auto request = stun::Message::parse(sent_bytes.back());
  ASSERT_TRUE(request);
  std::vector<std::uint8_t> buffer(512);
  stun::MessageBuilder challenge{buffer, stun::Class::error, stun::Method::allocate, request->transaction_id()};
  challenge.add_error_code(401, "")
      .add_text(stun::Attribute::realm, "penstock.test")
      .add_text(stun::Attribute::nonce, "n");
  ASSERT_EQ(client->handle_input(challenge.bytes(), now()).reason, DropReason::local_consumed);
  run(1ms);
  const auto second = stun::Message::parse(sent_bytes.back());
  const auto forge = [&](bool sign) {
    stun::MessageBuilder success{buffer, stun::Class::success, stun::Method::allocate, second->transaction_id()};
    success.add_xor_address(stun::Attribute::xor_relayed_address, kPeer).add_u32(stun::Attribute::lifetime, 600);
    if (sign) success.add_integrity(stun::long_term_key("user", "penstock.test", "guess"));
    return client->handle_input(success.bytes(), now()).reason;
  };
  EXPECT_EQ(forge(false), DropReason::stun_malformed);
  EXPECT_EQ(forge(true), DropReason::stun_malformed);
  EXPECT_EQ(client->state(), TurnClient::State::allocating);
}

TEST_F(TurnClientTest, RandomInputNeverCrashes) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(100ms);
  client->bind_channel(kPeer, now());
  run(100ms);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::uint8_t> bytes(random.below(80));
    random.fill(bytes);
    if (bytes.size() >= 20 && random.chance(700)) {
      bytes[0] &= 0x41;
      bytes[2] = 0, bytes[3] = static_cast<std::uint8_t>((bytes.size() - 20) & 0xfc);
      bytes.resize(20U + bytes[3]);
      bytes[4] = 0x21, bytes[5] = 0x12, bytes[6] = 0xa4, bytes[7] = 0x42;
    }
    (void)client->handle_input(bytes, now());
    drain_client();
  }
  run(1s);
  EXPECT_EQ(client->allocations(), 1u);
}

// Three resets within two seconds: the first short-lived allocation is forgiven, from then on the pauses grow from one
// second on.
TEST_F(TurnClientTest, PausesBeginWithOneSecond) {
  server->config().mobility = false;
  make_client().start(now());
  run(4s);
  for (unsigned reset = 1; reset <= 3; ++reset) {
    client_address.port = static_cast<std::uint16_t>(41000 + reset);
    client->suspect(now());
    run(900ms);
    EXPECT_EQ(client->state(), reset < 3 ? TurnClient::State::allocated : TurnClient::State::waiting) << reset;
  }
  run(500ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 4u);
  run(1s);
  client_address.port = 42000;
  client->suspect(now());
  run(1900ms);
  EXPECT_EQ(client->state(), TurnClient::State::waiting);
  run(800ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

// In another network nothing is held against a short-lived allocation.
TEST_F(TurnClientTest, AnotherNetworkIsForgivenAnew) {
  server->config().mobility = false;
  make_client().start(now());
  run(1s);
  for (unsigned reset = 1; reset <= 2; ++reset) {
    client_address.port = static_cast<std::uint16_t>(41000 + reset);
    client->suspect(now());
    run(900ms);
  }
  ASSERT_EQ(client->state(), TurnClient::State::waiting);
  client_address.port = 43000;
  client->handle_local_change(now());
  run(900ms);
  ASSERT_EQ(client->state(), TurnClient::State::allocated);
  client_address.port = 43001;
  client->suspect(now());
  run(300ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
}

}  // namespace
}  // namespace penstock::paths
