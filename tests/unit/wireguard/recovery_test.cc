// Properties: whatever the link does and whoever starts, a tunnel recovers, settles on one initiator and delivers
// nothing twice; and no byte string from outside changes anything.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

// Both ends know each other's address.
PeerConfig both_know(bool path_switch) {
  PeerConfig config;
  config.path_switch = path_switch;
  return config;
}
void tell_b(Pair& pair, bool path_switch) {
  ASSERT_EQ(pair.b.device->update_peer(0, Pair::of(pair.a, both_know(path_switch)), pair.net.now()), PeerError::none);
}

// trap: paths-8
TEST(Crossing, SimultaneousInitiationsSettleOnOneInitiator) {
  for (const bool path_switch : {false, true}) {
    for (std::uint64_t seed = 1; seed <= 40; ++seed) {
      Pair pair(both_know(path_switch), {}, {}, seed);
      tell_b(pair, path_switch);
      SeededRandom random(seed);
      pair.net.jitter = milliseconds(seed % 4 == 0 ? 0 : random.below(60));
      pair.net.send(pair.a, 0, inner_packet(60, 1));
      pair.net.run_for(milliseconds(seed % 5 == 0 ? 0 : random.below(12)));
      pair.net.send(pair.b, 0, inner_packet(60, 2));
      pair.net.run_for(seconds(1));
      ASSERT_EQ(pair.a.received.size(), 1U) << "seed " << seed;
      ASSERT_EQ(pair.b.received.size(), 1U) << "seed " << seed;
      // From here on exactly one side renews, once in two minutes.
      const auto initiations = [&] {
        return pair.a.count_sent(MessageType::initiation) + pair.b.count_sent(MessageType::initiation);
      };
      const std::size_t before = initiations();
      ASSERT_LE(before, 2U) << "seed " << seed;
      for (int i = 0; i < 250; ++i) {
        pair.net.send(pair.a, 0, inner_packet(60));
        pair.net.send(pair.b, 0, inner_packet(60));
        pair.net.run_for(seconds(1));
      }
      ASSERT_EQ(initiations() - before, 2U) << "seed " << seed;
      ASSERT_EQ(pair.a.received.size(), 251U) << "seed " << seed;
      ASSERT_EQ(pair.b.received.size(), 251U) << "seed " << seed;
      ASSERT_NE(pair.a.device->peer_info(0)->initiator, pair.b.device->peer_info(0)->initiator) << "seed " << seed;
    }
  }
}

// The same with every pattern of loss among the first messages of both handshakes.
TEST(Crossing, EveryPatternOfLossRecovers) {
  for (unsigned lost = 0; lost < 256; ++lost) {
    Pair pair(both_know(false), {}, {}, lost + 1);
    tell_b(pair, false);
    unsigned nth = 0;
    pair.net.filter = [&](Endpoint&, Endpoint&, std::vector<std::uint8_t>&) {
      return nth >= 8 || ((lost >> nth++) & 1) == 0;
    };
    pair.net.send(pair.a, 0, inner_packet(60, 1));
    pair.net.send(pair.b, 0, inner_packet(60, 2));
    pair.net.run_for(seconds(25));
    pair.net.filter = nullptr;
    ASSERT_TRUE(pair.delivers(pair.a, pair.b)) << lost;
    ASSERT_TRUE(pair.delivers(pair.b, pair.a)) << lost;
    pair.net.run_for(seconds(100));
    ASSERT_NE(pair.a.device->peer_info(0)->initiator, pair.b.device->peer_info(0)->initiator) << lost;
  }
}

// A standard peer forgets its own initiation when it takes another's: the case where only one handshake can complete.
TEST(Crossing, PeerThatDropsItsOwnInitiation) {
  for (const bool a_larger : {true, false}) {
    DeviceConfig one, two;
    one.private_key = private_key(1);
    two.private_key = private_key(2);
    const bool larger = public_key(one.private_key) > public_key(two.private_key);
    Pair pair({}, larger == a_larger ? one : two, larger == a_larger ? two : one);
    tell_b(pair, false);
    // B's own initiation never gets an answer that it would take.
    pair.net.filter = [&](Endpoint& source, Endpoint&, std::vector<std::uint8_t>& bytes) {
      return !(source == pair.a.address && bytes[0] == 2);
    };
    pair.net.send(pair.a, 0, inner_packet(60, 1));
    pair.net.send(pair.b, 0, inner_packet(60, 2));
    pair.net.run_for(milliseconds(200));
    EXPECT_EQ(pair.b.received.size(), 1U);
    EXPECT_EQ(pair.a.received.size(), 1U);
  }
}

RC_GTEST_PROP(Link, LossyReorderingDuplicatingAlwaysRecovers, (std::uint64_t seed)) {
  SeededRandom random(seed);
  const bool path_switch = random.below(2) == 1;
  Pair pair(both_know(path_switch), {}, {}, seed);
  tell_b(pair, path_switch);
  pair.net.loss = random.below(400);
  pair.net.duplicate = random.below(300);
  pair.net.jitter = milliseconds(random.below(500));
  pair.net.epoch.seconds += random.below(1000);
  std::uint32_t number = 0;
  const auto numbered = [&] {
    auto packet = inner_packet(40);
    store_le(packet.data() + 20, number++);
    return packet;
  };
  for (int i = 0; i < 600; ++i) {
    if (random.below(20) == 0) pair.net.epoch.seconds -= 5;
    if (random.below(100) == 0) pair.a.device->drop_sessions(0, pair.net.now());
    if (random.below(100) == 0) pair.b.device->drop_sessions(0, pair.net.now());
    if (random.below(3) != 0) pair.net.send(pair.a, 0, numbered());
    if (random.below(3) != 0) pair.net.send(pair.b, 0, numbered());
    pair.net.run_for(milliseconds(random.below(1500)));
  }
  for (Node* node : {&pair.a, &pair.b}) {
    std::set<std::uint32_t> numbers;
    for (const auto& packet : node->received)
      RC_ASSERT(numbers.insert(load_le<std::uint32_t>(packet.data() + 20)).second);  // nothing twice
  }
  // The link becomes clean: everything passes again within the time of two retries.
  pair.net.loss = pair.net.duplicate = 0;
  pair.net.jitter = {};
  for (int i = 0; i < 30; ++i) {
    pair.net.send(pair.a, 0, numbered());
    pair.net.send(pair.b, 0, numbered());
    pair.net.run_for(seconds(1));
  }
  RC_ASSERT(pair.delivers(pair.a, pair.b));
  RC_ASSERT(pair.delivers(pair.b, pair.a));
}

// One side restarts and forgets every session; the other has a live one that leads nowhere.
TEST(Recovery, RestartOfEitherSide) {
  for (const bool restart_b : {false, true}) {
    DeviceConfig config_a, config_b;
    config_a.private_key = private_key(11);
    config_b.private_key = private_key(12);
    Pair pair({}, config_a, config_b);
    pair.establish();
    Node& node = restart_b ? pair.b : pair.a;
    DeviceConfig& config = restart_b ? config_b : config_a;
    config.last_timestamp = node.device->last_timestamp();
    node.device = std::make_unique<Device>(config, *node.random);
    ASSERT_EQ(node.device->add_peer(Pair::of(restart_b ? pair.a : pair.b, {}, !restart_b), pair.net.now()).error,
              PeerError::none);
    for (int i = 0; i < 21; ++i) {  // 15 s of silence and a handshake
      pair.net.send(pair.a, 0, inner_packet(60));
      pair.net.run_for(seconds(1));
    }
    EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << restart_b;
    EXPECT_TRUE(pair.delivers(pair.b, pair.a)) << restart_b;
  }
}

// --- Input that does not authenticate ----------------------------------------------------------------------------

// What could have changed, as one value.
auto state_of(Node& node) {
  const auto info = node.device->peer_info(0).value();
  return std::tuple(info.endpoint, info.last_received, info.last_sent, info.session, info.initiator, info.handshaking,
                    info.traffic.received_packets, info.traffic.sent_packets, node.device->poll_timeout().at);
}

RC_GTEST_PROP(Malformed, NoByteStringChangesAnything, (std::vector<std::uint8_t> bytes, std::uint8_t type)) {
  static Pair& pair = [&]() -> Pair& {
    static Pair established;
    established.establish();
    return established;
  }();
  for (const bool typed : {false, true}) {
    if (typed) {
      static constexpr std::size_t kLengths[] = {0, 148, 92, 64, 32, 33, 48, 1400};
      bytes.resize(kLengths[type % 8], 0xee);
      if (bytes.size() >= 4) store_le<std::uint32_t>(bytes.data(), 1 + type % 4U);
    }
    for (Node* node : {&pair.a, &pair.b}) {
      const auto before = state_of(*node);
      auto copy = bytes;
      const Path from{node->address, Endpoint::parse("192.0.2.66:6").value(), 0};
      RC_ASSERT(node->device->handle_datagram(copy, from, pair.net.now()).reason != DropReason::none);
      RC_ASSERT(state_of(*node) == before);
      RC_ASSERT(!node->device->poll_output().has_value());
      RC_ASSERT(!node->device->poll_event().has_value());
    }
  }
}

// Genuine messages of all four types with bits flipped, cut, extended, and sent by the wrong device.
RC_GTEST_PROP(Malformed, NoDamagedMessageChangesAnything, (std::uint64_t seed)) {
  SeededRandom random(seed);
  Pair pair({}, {}, {}, seed);
  std::vector<std::vector<std::uint8_t>> messages;
  pair.net.filter = [&](Endpoint&, Endpoint&, std::vector<std::uint8_t>& bytes) {
    messages.push_back(bytes);
    return true;
  };
  pair.b.device->set_under_load(true);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(7));
  pair.b.device->set_under_load(false);
  RC_ASSERT(pair.b.received.size() == 1U);
  RC_ASSERT(messages.size() >= 5U);
  for (int i = 0; i < 200; ++i) {
    auto bytes = messages[random.below(static_cast<std::uint32_t>(messages.size()))];
    Node& node = random.below(2) == 0 ? pair.a : pair.b;
    switch (random.below(4)) {
      case 0:
        bytes.resize(random.below(static_cast<std::uint32_t>(bytes.size())));
        break;
      case 1:
        bytes.resize(bytes.size() + 1 + random.below(40));
        break;
      default: {
        const auto bit = random.below(static_cast<std::uint32_t>(bytes.size() * 8));
        bytes[bit / 8] = static_cast<std::uint8_t>(bytes[bit / 8] ^ (1U << (bit % 8)));
      }
    }
    const auto before = state_of(node);
    const Path from{node.address, Endpoint::parse("192.0.2.66:6").value(), 0};
    RC_ASSERT(node.device->handle_datagram(bytes, from, pair.net.now()).reason != DropReason::none);
    RC_ASSERT(state_of(node) == before);
    while (auto out = node.device->poll_output()) RC_ASSERT(out->bytes[0] == 3);  // mac1 was intact: a cookie at most
    RC_ASSERT(!node.device->poll_event().has_value());
  }
  pair.net.filter = nullptr;
  RC_ASSERT(pair.delivers(pair.a, pair.b));
  RC_ASSERT(pair.delivers(pair.b, pair.a));
}

// Index and tag: an index of a dead session finds nothing, whatever took its slot.
TEST(Indices, DeadOnesStayDead) {
  DeviceConfig config;
  config.max_sessions = 4;  // 8 slots: they are used again and again
  Pair pair({}, config, config);
  std::set<std::uint32_t> dead;
  for (int i = 0; i < 200; ++i) {
    pair.net.send(pair.a, 0, inner_packet(60));
    pair.net.run_for(seconds(6));
    Session* session = pair.b.device->data_path().sending_session(0, pair.net.now().monotonic);
    ASSERT_NE(session, nullptr) << i;
    EXPECT_EQ(pair.b.device->data_path().find_session(session->local_index), session);
    dead.insert(session->local_index);
    pair.a.device->drop_sessions(0, pair.net.now());
    pair.b.device->drop_sessions(0, pair.net.now());
    for (const std::uint32_t index : dead) ASSERT_EQ(pair.b.device->data_path().find_session(index), nullptr);
  }
  EXPECT_GT(dead.size(), 195U);
}

TEST(Indices, AFullTableRefusesNewHandshakesOnly) {
  DeviceConfig config;
  config.max_sessions = 4;
  config.max_peers = 8;
  Network net(9);
  Node& b = net.add("b", "203.0.113.1:2000", config);
  std::vector<Node*> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(&net.add("client", "198.51.100." + std::to_string(i + 1) + ":1000"));
    ASSERT_EQ(clients.back()->device->add_peer(Pair::of(b), net.now()).error, PeerError::none);
    ASSERT_EQ(b.device->add_peer(Pair::of(*clients.back(), {}, false), net.now()).error, PeerError::none);
  }
  for (Node* client : clients) net.send(*client, 0, inner_packet(60));
  net.run_for(seconds(1));
  EXPECT_EQ(b.received.size(), 4U);
  EXPECT_EQ(b.count(DropReason::wg_sessions_full), 4U);
  net.run_for(seconds(60));
  for (std::size_t i = 0; i < 4; ++i) net.send(*clients[i], 0, inner_packet(60));
  net.run_for(seconds(1));
  EXPECT_EQ(b.received.size(), 8U);
}

}  // namespace
}  // namespace penstock::wireguard
