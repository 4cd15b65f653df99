// What a live session takes of the heap, the whole of it: keys, replay window, the handshake's state, timers.
#include <gtest/gtest.h>
#include <malloc.h>

#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kGoal = 4096;
// Sessions stand side by side in chunks of large pages: so many of them are counted that what is left of the last chunk
// does not matter.
constexpr std::size_t kPerChunk = (std::size_t{2} << 20) / sizeof(Session);
constexpr std::uint32_t kSessions = 2 * kPerChunk;

static_assert(sizeof(Session) <= 2304, "a session is a window of 2 KiB and three lines");

std::size_t allocated() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

// By a whole handshake with a client that is gone afterwards.
void begin_session(Device& gateway, std::uint32_t number, PeerIndex peer, Random& random) {
  const Now now = time_at(std::chrono::milliseconds(number));
  const Endpoint here{IpAddress::v4({192, 0, 2, 1}), 51820};
  const Endpoint there{IpAddress::v4(0xc6336400U), static_cast<std::uint16_t>(1024 + number)};
  DeviceConfig config;
  config.private_key = private_key(number);
  config.max_peers = 1;
  Device client(config, random);
  PeerConfig to;
  to.public_key = gateway.public_key();
  to.endpoints = {here};
  const PeerIndex index = client.add_peer(to, now).peer;
  client.want_session(index, now);
  const auto initiation = client.poll_output();
  ASSERT_TRUE(initiation);
  ASSERT_EQ(gateway.handle_handshake(initiation->bytes, {here, there, 0}, now), DropReason::none);
  while (auto answer = gateway.poll_output()) client.handle_datagram(answer->bytes, {there, here, 0}, now);
  const Session* session = client.data_path().sending_session(index, now.monotonic);
  ASSERT_NE(session, nullptr);
  gateway.handle_note({note_bit::confirmed, session->remote_index, peer, {here, there, 0}}, now);
  while (gateway.poll_output()) {
  }
  while (gateway.poll_event()) {
  }
  ASSERT_NE(gateway.data_path().sending_session(peer, now.monotonic), nullptr);
}

TEST(SessionMemory, ALiveSessionTakesAtMostFourKibibytes) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's heap does not count";
#endif
  // All from the heap: what aligning a chunk leaves over would count where it is mapped on its own, though nobody touches it.
  ::mallopt(M_MMAP_MAX, 0);
  SeededRandom random{5};
  constexpr std::uint32_t kBefore = 64;  // tables and buffers that grow with the first ones
  DeviceConfig config;
  config.private_key = private_key(1U << 20);
  config.max_peers = kBefore + kSessions;
  config.under_load_per_s = config.per_source_per_s = config.per_source_burst = 1U << 30;
  Device gateway(config, random);
  std::vector<PeerIndex> peers;
  for (std::uint32_t i = 0; i < kBefore + kSessions; ++i) {
    PeerConfig peer;
    peer.public_key = public_key(private_key(i));
    const auto added = gateway.add_peer(peer, time_at({}));
    ASSERT_EQ(added.error, PeerError::none);
    peers.push_back(added.peer);
  }
  for (std::uint32_t i = 0; i < kBefore; ++i) begin_session(gateway, i, peers[i], random);
  const std::size_t before = allocated();
  for (std::uint32_t i = kBefore; i < kBefore + kSessions; ++i) {
    begin_session(gateway, i, peers[i], random);
    if (HasFatalFailure()) return;
  }
  const std::size_t each = (allocated() - before) / kSessions;
  EXPECT_GE(each, sizeof(Session)) << "what is counted is not what sessions are made of";
  EXPECT_LE(each, kGoal);
  RecordProperty("bytes", static_cast<int>(each));
}

}  // namespace
}  // namespace penstock::wireguard
