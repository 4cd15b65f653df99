// The data half as workers use it: beside a Device in another thread, with sessions freed later, coarse activity.
#include "dataplane/core/wireguard/data_path.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <thread>
#include <unordered_set>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

struct WorkerPair : Pair {
  static DeviceConfig gateway_config(std::vector<Session*>& retired) {
    DeviceConfig config;
    config.traffic_writers = 3;
    config.activity_granularity = milliseconds(100);
    config.retire = [&retired](Session* session) { retired.push_back(session); };
    return config;
  }
  WorkerPair() : Pair({}, {}, gateway_config(retired)) {}
  ~WorkerPair() {
    b.device.reset();
    for (Session* session : retired) destroy_session(session);
  }
  DataPath& data() { return b.device->data_path(); }

  std::vector<Session*> retired;
};

TEST(DataPath, FullWayOfAWorker) {
  WorkerPair pair;
  pair.a.device->want_session(0, pair.net.now());
  // The gateway's slow thread gets the handshake; its worker gets the keepalive and sees that it confirms.
  const Path from{pair.b.address, pair.a.address, 0};
  EXPECT_EQ(pair.b.device->handle_handshake(pair.a.device->poll_output()->bytes, from, pair.net.now()),
            DropReason::none);
  EXPECT_EQ(pair.data().sending_session(0, pair.net.now().monotonic), nullptr) << "not before the initiator was heard";
  EXPECT_EQ(pair.a.device->handle_handshake(pair.b.device->poll_output()->bytes, from, pair.net.now()),
            DropReason::none);
  auto keepalive = pair.a.device->poll_output()->bytes;

  const Now now = pair.net.now();
  const auto aead = make_aead_context("auto");
  const auto* header = view_as<DataHeader>(Bytes{keepalive});
  Session* session = pair.data().find_session(header->receiver.get());
  ASSERT_NE(session, nullptr);
  ASSERT_EQ(DataPath::check_receive(*session, header->counter.get(), now.monotonic), DropReason::none);
  AeadJob job;
  prepare_open(*session, keepalive, job);
  aead->open({&job, 1});
  ASSERT_TRUE(job.ok);
  ReceiveResult accepted = pair.data().accept_receive(*session, job.counter, from, now.monotonic);
  EXPECT_EQ(accepted.reason, DropReason::none);
  EXPECT_EQ(accepted.notes, note_bit::confirmed);
  EXPECT_EQ(pair.data().accept_receive(*session, job.counter, from, now.monotonic).reason, DropReason::wg_replay);
  pair.data().note_received(1, 0, 1, keepalive.size(), false, now.monotonic);
  // Until the note has been handled, it is repeated, but not with every packet.
  EXPECT_EQ(pair.data().receive_notes(*session, from, now.monotonic + Duration(1000)), 0);
  EXPECT_EQ(pair.data().receive_notes(*session, from, now.monotonic + milliseconds(2)), note_bit::confirmed);
  pair.b.device->handle_note({accepted.notes, session->local_index, 0, from}, now);
  EXPECT_EQ(pair.b.device->poll_event()->type, EventType::endpoint_changed);
  EXPECT_EQ(pair.b.device->poll_event()->type, EventType::session_up);
  EXPECT_EQ(pair.data().receive_notes(*session, from, now.monotonic + milliseconds(5)), 0);

  // And back.
  ASSERT_EQ(pair.data().sending_session(0, now.monotonic), session);
  const auto inner = inner_packet(100, 5);
  std::vector<std::uint8_t> buffer(200);
  std::copy(inner.begin(), inner.end(), buffer.begin() + 16);
  const std::uint64_t counter = DataPath::reserve_counters(*session, 1);
  prepare_seal(*session, counter, buffer.data() + 16, 100, padded_length(100, 1280), job);
  aead->seal({&job, 1});
  buffer.resize(16 + 112 + 16);
  pair.data().note_sent(2, 0, 1, buffer.size(), true, now.monotonic);
  const auto result = pair.a.device->handle_datagram(buffer, {pair.a.address, pair.b.address, 0}, now);
  EXPECT_EQ(result.reason, DropReason::none);
  EXPECT_EQ(std::vector(result.inner.begin(), result.inner.end()), inner);

  const PeerTraffic traffic = pair.data().traffic(0);
  EXPECT_EQ(traffic.received_packets, 1U);
  EXPECT_EQ(traffic.sent_packets, 1U);
  EXPECT_EQ(traffic.sent_bytes, buffer.size());
}

TEST(DataPath, RetiredSessionsAreHandedOutNotFreed) {
  WorkerPair pair;
  pair.establish();
  Session* held = pair.data().sending_session(0, pair.net.now().monotonic);
  ASSERT_NE(held, nullptr);
  const std::uint32_t index = held->local_index;
  pair.b.device->remove_peer(0, pair.net.now());
  EXPECT_EQ(pair.retired, std::vector<Session*>(1, held));
  EXPECT_EQ(pair.data().find_session(index), nullptr);
  EXPECT_EQ(pair.data().sending_session(0, pair.net.now().monotonic), nullptr);
  EXPECT_NE(DataPath::reserve_counters(*held, 4), kNoCounter) << "a worker in the middle of a burst is safe";
  // A note that is still under way finds nobody, even if the slot serves another peer by then.
  pair.b.device->handle_note({note_bit::confirmed | note_bit::renew, index, 0, {}}, pair.net.now());
  EXPECT_FALSE(pair.b.device->poll_event().has_value());
}

TEST(DataPath, NoSessionForUnknownPeers) {
  WorkerPair pair;
  EXPECT_EQ(pair.data().sending_session(kNoPeer, pair.net.now().monotonic), nullptr);
  EXPECT_EQ(pair.data().sending_session(15, pair.net.now().monotonic), nullptr);
  SeededRandom random(3);
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(pair.data().find_session(random.next_u32()), nullptr);
}

TEST(DataPath, SessionLayout) {
  EXPECT_LE(sizeof(Session), 4096U);
  EXPECT_EQ(alignof(Session), 64U);
  EXPECT_EQ(offsetof(Session, send_key), 0U);
  EXPECT_LE(offsetof(Session, remote_index) + 4, 64U) << "sending reads one line";
  EXPECT_EQ(offsetof(Session, receive_key), 64U);
  EXPECT_EQ(offsetof(Session, window), 120U) << "the window's head in the receiving line, its words behind";
}

// No counter is given to two senders, whatever the sizes of their bursts.
TEST(DataPath, CountersAreReservedOnce) {
  Session session;
  constexpr int kThreads = 4, kBursts = 20000;
  std::vector<std::vector<std::pair<std::uint64_t, std::uint32_t>>> got(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint32_t i = 0; i < kBursts; ++i) {
        const std::uint32_t n = 1 + (i * 7 + static_cast<std::uint32_t>(t)) % 64;
        got[static_cast<std::size_t>(t)].push_back({DataPath::reserve_counters(session, n), n});
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::vector<std::pair<std::uint64_t, std::uint32_t>> all;
  for (const auto& list : got) all.insert(all.end(), list.begin(), list.end());
  std::sort(all.begin(), all.end());
  std::uint64_t next = 0;
  for (const auto& [first, n] : all) {
    ASSERT_EQ(first, next);
    next = first + n;
  }
}

// A reader never sees half of one path and half of another.
TEST(DataPath, EndpointsAreReadWhole) {
  Pair pair({[] {
    PeerConfig config;
    config.path_switch = true;
    return config;
  }()});
  DataPath& data = pair.a.device->data_path();
  const auto path_of = [](std::uint8_t n) {
    std::array<std::uint8_t, 16> octets;
    octets.fill(n);
    const Endpoint both{IpAddress::v6(octets), static_cast<std::uint16_t>(n * 257)};
    return Path{both, both, n};
  };
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> reads{0};
  pair.a.device->set_endpoint(0, path_of(1), pair.net.now());
  std::thread reader([&] {
    while (!stop.load()) {
      const auto path = data.endpoint(0);
      ASSERT_TRUE(path);
      ASSERT_EQ(*path, path_of(static_cast<std::uint8_t>(path->relay)));
      reads.fetch_add(1);
    }
  });
  std::uint8_t n = 1;
  while (reads.load() < 20000) {
    n = static_cast<std::uint8_t>(n % 200 + 1);
    pair.a.device->set_endpoint(0, path_of(n), pair.net.now());
    while (pair.a.device->poll_event()) {
    }
  }
  stop.store(true);
  reader.join();
}

TEST(DataPath, ActivityIsWrittenRarely) {
  WorkerPair pair;
  pair.establish();
  pair.net.run_for(seconds(5));
  const Instant start = pair.net.now().monotonic;
  pair.data().note_sent(1, 0, 1, 100, true, start);
  pair.data().note_received(1, 0, 1, 100, true, start);
  pair.data().note_sent(1, 0, 1, 100, true, start + milliseconds(99));
  pair.data().note_received(1, 0, 1, 100, true, start + milliseconds(99));
  EXPECT_EQ(pair.b.device->peer_info(0)->last_sent, start);
  EXPECT_EQ(pair.b.device->peer_info(0)->last_received, start);
  pair.data().note_sent(1, 0, 1, 100, true, start + milliseconds(100));
  pair.data().note_received(1, 0, 1, 100, true, start + milliseconds(100));
  EXPECT_EQ(pair.b.device->peer_info(0)->last_sent, start + milliseconds(100));
  EXPECT_EQ(pair.b.device->peer_info(0)->last_received, start + milliseconds(100));
  EXPECT_EQ(pair.data().traffic(0).sent_packets, 3U + 1U) << "traffic is counted exactly";
}

// A configured peer costs at most 512 bytes, and no key agreement before it is needed. The tables shared with workers
// are allocated for all peers at once and are counted by the size of their elements: 128 for the peer, 32 per writer.
TEST(DataPath, PeersAreSmall) {
  constexpr std::size_t kPeers = 20000;
  SeededRandom random(1);
  DeviceConfig config;
  config.private_key = private_key(1);
  config.max_peers = kPeers;
  Device device(config, random);
  const std::size_t before = mallinfo2().uordblks;
  for (std::size_t i = 0; i < kPeers; ++i) {
    PeerConfig peer;
    random.fill(peer.public_key.bytes);
    peer.endpoints = {Endpoint::parse("198.51.100.1:5").value()};
    ASSERT_EQ(device.add_peer(peer, time_at({})).peer, i);
    ASSERT_EQ(device.find_peer(peer.public_key), i);
  }
  EXPECT_LE((mallinfo2().uordblks - before) / kPeers, 512U - 128U - 2 * 32U);
  EXPECT_EQ(device.peer_count(), kPeers);
  EXPECT_EQ(device.poll_timeout().at, kNever) << "no key agreement and no timer before a peer is needed";
}

}  // namespace
}  // namespace penstock::wireguard
