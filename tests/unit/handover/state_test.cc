// The bytes that one data plane leaves to the next.
#include "dataplane/core/handover/state.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "dataplane/core/handover/codec.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::handover {
namespace {

using wireguard::SeededRandom;

IpAddress some_address(SeededRandom& random) {
  std::array<std::uint8_t, 16> octets{};
  random.fill(octets);
  return random.below(2) == 0 ? IpAddress::v6(octets) : IpAddress::v4(random.next_u32());
}

Path some_path(SeededRandom& random) {
  return {{some_address(random), static_cast<std::uint16_t>(random.next())},
          {some_address(random), static_cast<std::uint16_t>(random.next())},
          random.next_u32()};
}

Instant some_time(SeededRandom& random) {
  return Instant(Duration(static_cast<std::int64_t>(random.next() >> 8)));
}

wireguard::PeerHandover some_tunnel(SeededRandom& random) {
  wireguard::PeerHandover out;
  random.fill(out.public_key.bytes);
  random.fill(out.greatest_timestamp);
  out.handshake_at = {random.next(), random.next_u32()};
  if (random.below(2) != 0) out.endpoint = some_path(random);
  for (std::uint8_t role = 0; role < wireguard::kSessionRoles; ++role) {
    if (random.below(2) == 0) continue;
    wireguard::SessionHandover& session = out.sessions.emplace_back();
    session.role = static_cast<wireguard::SessionRole>(role);
    session.initiator = random.below(2) != 0;
    session.confirmed = random.below(2) != 0;
    random.fill(session.send_key);
    random.fill(session.receive_key);
    session.local_index = random.next_u32();
    session.remote_index = random.next_u32();
    session.created_at = some_time(random);
    session.send_counter = random.next();
    session.window.head = random.next();
    for (auto& seen : session.window.seen) seen = random.next_u32();
  }
  return out;
}

nat::FlowHandover some_flow(SeededRandom& random, std::uint32_t peers) {
  nat::FlowHandover out;
  out.peer = random.below(peers);
  for (IpAddress* address : {&out.inside_source, &out.inside_destination, &out.source, &out.remote})
    *address = some_address(random);
  for (std::uint16_t* port :
       {&out.inside_source_port, &out.inside_destination_port, &out.source_port, &out.remote_port})
    *port = static_cast<std::uint16_t>(random.next());
  out.protocol = static_cast<std::uint8_t>(random.next());
  out.state = static_cast<std::uint8_t>(random.next());
  out.translation_tag = random.next_u32();
  out.expires = random.next_u32();
  out.idle = Duration(random.next_u32());
  out.packets_up = random.next();
  out.packets_down = random.next();
  return out;
}

State some_state(std::uint64_t seed) {
  SeededRandom random(seed);
  State out;
  random.fill(out.public_key.bytes);
  out.at = some_time(random);
  out.workers = static_cast<std::uint16_t>(1 + random.below(8));
  random.fill(out.last_timestamp);
  out.ports = {"wan", "", "lan"};
  for (std::uint32_t i = random.below(5) + 1; i > 0; --i) {
    Peer& peer = out.peers.emplace_back();
    peer.tunnel = some_tunnel(random);
    peer.switch_sequence = random.next_u32();
    for (std::uint32_t n = random.below(4); n > 0; --n)
      peer.addresses.push_back({some_path(random), some_time(random)});
  }
  for (std::uint32_t i = random.below(20); i > 0; --i)
    out.flows.push_back({static_cast<std::uint16_t>(random.below(out.workers)),
                         some_flow(random, static_cast<std::uint32_t>(out.peers.size()))});
  for (std::uint32_t i = random.below(4); i > 0; --i) {
    Neighbour& neighbour = out.neighbours.emplace_back();
    neighbour.port = static_cast<std::uint16_t>(random.below(3));
    neighbour.address = some_address(random);
    random.fill(neighbour.mac);
  }
  out.rights.resize(random.below(300));
  random.fill(out.rights);
  return out;
}

// A body with a right header.
std::vector<std::uint8_t> with_header(std::vector<std::uint8_t> bytes) {
  const Bytes body = Bytes{bytes}.subspan(kHeaderSize);
  store_le<std::uint64_t>(bytes.data() + 16, body.size());
  store_le<std::uint64_t>(bytes.data() + 24, checksum(body));
  return bytes;
}

Problem problem_of(Bytes bytes) {
  const auto decoded = decode(bytes);
  const auto* problem = std::get_if<Problem>(&decoded);
  EXPECT_NE(problem, nullptr);
  return problem == nullptr ? Problem{} : *problem;
}

RC_GTEST_PROP(State, WhatIsWrittenIsRead, (std::uint64_t seed)) {
  const State state = some_state(seed);
  const auto decoded = decode(encode(state));
  RC_ASSERT(std::holds_alternative<State>(decoded));
  RC_ASSERT(std::get<State>(decoded) == state);
}

TEST(State, AnEmptyOneIsAStateToo) {
  const auto decoded = decode(encode({}));
  ASSERT_TRUE(std::holds_alternative<State>(decoded));
  EXPECT_EQ(std::get<State>(decoded), State{});
}

TEST(State, WhatIsCutOffIsRefusedWherever) {
  const auto bytes = encode(some_state(3));
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_EQ(problem_of(Bytes{bytes}.first(size)), size < kHeaderSize ? Problem::no_state : Problem::cut_off) << size;
  auto longer = bytes;
  longer.push_back(0);
  EXPECT_EQ(problem_of(longer), Problem::cut_off);
}

TEST(State, ADamagedBitIsNoticedWherever) {
  const auto bytes = encode(some_state(4));
  for (std::size_t bit = kHeaderSize * 8; bit < bytes.size() * 8; bit += 3) {
    auto damaged = bytes;
    damaged[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    ASSERT_EQ(problem_of(damaged), Problem::damaged) << bit;
  }
}

TEST(State, AnotherVersionIsLeftAlone) {
  auto bytes = encode(some_state(5));
  for (const std::uint32_t version : {0U, kVersion + 1, 0xffffffffU}) {
    store_le<std::uint32_t>(bytes.data() + 8, version);
    EXPECT_EQ(problem_of(bytes), Problem::other_version);
  }
}

TEST(State, WipedMemoryIsNoState) {
  EXPECT_EQ(problem_of(std::vector<std::uint8_t>(4096)), Problem::no_state);
}

// Bodies that were changed on purpose, under a right checksum: refused, or read as something that is written the same.
RC_GTEST_PROP(State, NoBodyCrashesTheReader, (std::uint64_t seed)) {
  auto bytes = encode(some_state(seed));
  for (int changes = *rc::gen::inRange(1, 6); changes > 0; --changes) {
    const auto at = *rc::gen::inRange(kHeaderSize, bytes.size());
    // Counts are what a reader may trip over: large ones too.
    for (std::size_t i = at; i < std::min(bytes.size(), at + *rc::gen::element<std::size_t>(1, 1, 8)); ++i)
      bytes[i] = *rc::gen::element<std::uint8_t>(0, 1, 4, 0x7f, 0xff);
  }
  if (*rc::gen::arbitrary<bool>()) bytes.resize(*rc::gen::inRange(kHeaderSize, bytes.size()));
  bytes = with_header(std::move(bytes));
  const auto decoded = decode(bytes);
  if (const auto* state = std::get_if<State>(&decoded)) RC_ASSERT(encode(*state) == bytes);
}

TEST(State, ReferencesThatLeadNowhereAreRefused) {
  const auto refused = [](const State& state) { return problem_of(encode(state)) == Problem::malformed; };
  State state;
  state.workers = 2;
  state.ports = {"wan"};
  state.peers.resize(1);
  state.flows.push_back({1, {}});
  state.flows[0].flow.peer = 0;
  state.neighbours.push_back({0, {}, {}});
  EXPECT_TRUE(std::holds_alternative<State>(decode(encode(state))));
  State other = state;
  other.flows[0].flow.peer = 1;
  EXPECT_TRUE(refused(other));
  other = state;
  other.flows[0].worker = 2;
  EXPECT_TRUE(refused(other));
  other = state;
  other.neighbours[0].port = 1;
  EXPECT_TRUE(refused(other));
  other = state;
  other.peers[0].tunnel.sessions.resize(2);  // both the current one
  EXPECT_TRUE(refused(other));
}

}  // namespace
}  // namespace penstock::handover
