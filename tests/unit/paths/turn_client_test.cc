#include "controlplane/core/paths/turn_client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::paths {
namespace {

using model::Datagram;
using model::SeededRandom;
using model::TurnServer;
using namespace std::chrono_literals;

Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}
IpAddress address(const char* text) {
  return *IpAddress::parse(text);
}

const Endpoint kServer = endpoint("198.51.100.20:3478");
const Endpoint kClient = endpoint("198.51.100.130:40000");
const Endpoint kPeer = endpoint("203.0.113.7:51820");

// One client, one relay, one peer, a wire with 10 ms each way and a switch.
class TurnClientTest : public ::testing::Test {
 protected:
  TurnClientTest() { make_server(); }

  void make_server() {
    TurnServer::Config config;
    config.listen = kServer;
    config.relay_v4 = address("198.51.100.20");
    config.relay_v6 = address("2001:db8:20::20");
    server = std::make_unique<TurnServer>(config, random);
  }
  TurnClient& make_client(TurnConfig config = {}) {
    config.server = kServer;
    if (config.credentials.username.empty()) config.credentials = {"user", "secret", ""};
    client = std::make_unique<TurnClient>(config, random, numbers);
    return *client;
  }
  Instant now() const { return now_; }

  void drain_client() {
    while (auto bytes = client->poll_output()) {
      ++sent;
      sent_bytes.push_back(*bytes);
      if (client_to_server) wire.push_back({now_ + 10ms, {client_address, kServer, std::move(*bytes)}});
    }
    while (auto event = client->poll_event()) events.push_back(*event);
  }

  // Runs the network until `until`, calling timeouts when they are due.
  void run(Duration how_long) {
    const Instant until = now_ + how_long;
    drain_client();
    for (;;) {
      Instant next = std::min(until, client->poll_timeout().at);
      for (const auto& flying : wire) next = std::min(next, flying.at);
      now_ = std::max(now_, next);
      std::deque<Datagram> arrived;
      for (std::size_t i = 0; i < wire.size();) {
        if (wire[i].at > now_) {
          ++i;
          continue;
        }
        arrived.push_back(std::move(wire[i].datagram));
        wire.erase(wire.begin() + static_cast<std::ptrdiff_t>(i));
      }
      for (auto& datagram : arrived) deliver(datagram);
      if (now_ >= client->poll_timeout().at) {
        client->handle_timeout(now_);
        // trap: paths-21 - a timer that fired is gone
        EXPECT_GT(client->poll_timeout().at, now_) << client->poll_timeout().why;
      }
      drain_client();
      if (now_ >= until) return;
    }
  }

  void deliver(const Datagram& datagram) {
    if (server->owns(datagram.to.address)) {
      std::deque<Datagram> out;
      server->handle(datagram, now_, out);
      for (auto& reply : out) {
        if (reply.to.address == client_address.address && !server_to_client) continue;
        wire.push_back({now_ + 10ms, std::move(reply)});
      }
    } else if (datagram.to == client_address) {
      const auto input = client->handle_input(datagram.bytes, now_);
      last_reason = input.reason;
      if (input.reason == DropReason::none) {
        received.emplace_back(input.peer, std::vector<std::uint8_t>{input.payload.begin(), input.payload.end()});
        by_channel.push_back(input.channel);
      }
      drain_client();
    } else {
      at_peer.push_back(datagram);
    }
  }

  bool send_to_peer(const Endpoint& peer, std::vector<std::uint8_t> payload) {
    const auto wrapping = client->wrap(peer, payload.size(), now_);
    if (!wrapping) return false;
    std::vector<std::uint8_t> bytes{wrapping->prefix.begin(), wrapping->prefix.begin() + wrapping->prefix_size};
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    bytes.resize(bytes.size() + wrapping->padding);
    wire.push_back({now_ + 10ms, {client_address, kServer, std::move(bytes)}});
    return true;
  }
  void send_from_peer(const Endpoint& peer, std::vector<std::uint8_t> payload) {
    wire.push_back({now_ + 10ms, {peer, client->relayed(), std::move(payload)}});
  }
  std::size_t count(TurnEvent::Kind kind) const {
    return static_cast<std::size_t>(
        std::count_if(events.begin(), events.end(), [&](const TurnEvent& e) { return e.kind == kind; }));
  }

  struct Flying {
    Instant at;
    Datagram datagram;
  };
  SeededRandom random{7};
  std::uint32_t numbers = 0;
  Instant now_{1h};
  std::unique_ptr<TurnServer> server;
  std::unique_ptr<TurnClient> client;
  Endpoint client_address = kClient;
  std::deque<Flying> wire;
  bool client_to_server = true;
  bool server_to_client = true;
  std::size_t sent = 0;
  std::vector<std::vector<std::uint8_t>> sent_bytes;
  std::vector<TurnEvent> events;
  std::vector<std::pair<Endpoint, std::vector<std::uint8_t>>> received;
  std::vector<bool> by_channel;
  std::vector<Datagram> at_peer;
  DropReason last_reason = DropReason::none;
};

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

// trap: paths-13 - also when nobody suspects anything
TEST_F(TurnClientTest, RelayRestartIsNoticedWhileIdle) {
  make_client().start(now());
  run(90s);
  server->restart(now());
  run(TurnClient::kKeepalive + 500ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
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
    client->handle_local_change(now());
    run(200ms);
    EXPECT_EQ(client->number(), number);
    EXPECT_EQ(client->relayed(), relayed);
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

}  // namespace
}  // namespace penstock::paths
