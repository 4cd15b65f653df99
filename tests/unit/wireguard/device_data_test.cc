// What goes through a Device's sessions: bursts, padding, limits, order, and what a packet costs among many peers.
#include "dataplane/core/wireguard/device.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

TEST(DeviceData, BurstsAreSealedAndOpenedInPlace) {
  Pair pair;
  pair.establish();
  constexpr std::size_t kPackets = 150;
  std::vector<std::vector<std::uint8_t>> buffers;
  std::vector<Outbound> out;
  for (std::size_t i = 0; i < kPackets; ++i) {
    const auto packet = inner_packet(20 + i * 8, static_cast<std::uint8_t>(i));
    buffers.emplace_back(packet.size() + 64);
    std::copy(packet.begin(), packet.end(), buffers.back().begin() + 16);
    out.push_back({buffers.back().data() + 16, static_cast<std::uint32_t>(packet.size()), {}});
  }
  const auto sealed = pair.a.device->seal(0, out, pair.net.now());
  ASSERT_EQ(sealed.reason, DropReason::none);
  EXPECT_EQ(sealed.path.remote, pair.b.address);
  std::vector<Inbound> in;
  for (const Outbound& packet : out) in.push_back({packet.datagram, Path{pair.b.address, pair.a.address, 0}});
  in.push_back({out[3].datagram, Path{pair.b.address, pair.a.address, 0}});  // opened by then: a duplicate that fails
  pair.b.device->open(in, pair.net.now());
  for (std::size_t i = 0; i < kPackets; ++i) {
    ASSERT_EQ(in[i].reason, DropReason::none) << i;
    ASSERT_EQ(in[i].peer, 0U);
    ASSERT_EQ(std::vector(in[i].inner.begin(), in[i].inner.end()),
              inner_packet(20 + i * 8, static_cast<std::uint8_t>(i)));
  }
  EXPECT_EQ(in[kPackets].reason, DropReason::wg_replay);
}

TEST(DeviceData, SealWithoutSessionAsksForOne) {
  Pair pair;
  auto packet = inner_packet(100);
  packet.resize(164);
  Outbound one{packet.data() + 16, 100, {}};
  const auto before = packet;
  EXPECT_EQ(pair.a.device->seal(0, {&one, 1}, pair.net.now()).reason, DropReason::wg_no_session);
  EXPECT_EQ(packet, before);
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.a.count(EventType::session_up), 1U);
  EXPECT_EQ(pair.a.device->seal(9, {&one, 1}, pair.net.now()).reason, DropReason::wg_no_session);
}

// Two data messages may meet in one burst with the same counter: the second is refused after decryption.
TEST(DeviceData, DuplicatesInOneBurst) {
  Pair pair;
  pair.establish();
  std::vector<std::uint8_t> taken;
  pair.net.filter = [&](Endpoint&, Endpoint&, std::vector<std::uint8_t>& bytes) {
    taken = bytes;
    return false;
  };
  pair.net.send(pair.a, 0, inner_packet(100, 4));
  pair.net.run_for(milliseconds(50));
  auto copy = taken;
  const Path from{pair.b.address, pair.a.address, 0};
  std::array<Inbound, 2> burst{Inbound{taken, from}, Inbound{copy, from}};
  pair.b.device->open(burst, pair.net.now());
  EXPECT_EQ(burst[0].reason, DropReason::none);
  EXPECT_EQ(burst[1].reason, DropReason::wg_replay);
}

// A peer that does not pad, and one that pads too much, are understood.
TEST(DeviceData, AnyPaddingOfThePeerIsAccepted) {
  for (const std::size_t padding : {0U, 1U, 15U, 16U, 200U}) {
    Pair pair;
    pair.establish();
    Session* session = pair.a.device->data_path().sending_session(0, pair.net.now().monotonic);
    ASSERT_NE(session, nullptr);
    const auto inner = inner_packet(61, 3);
    std::vector<std::uint8_t> datagram(16 + inner.size() + padding + 16);
    std::copy(inner.begin(), inner.end(), datagram.begin() + 16);
    AeadJob job;
    prepare_seal(*session, DataPath::reserve_counters(*session, 1), datagram.data() + 16, 61,
                 static_cast<std::uint32_t>(61 + padding), job);
    make_aead_context("openssl")->seal({&job, 1});
    const auto result = pair.b.device->handle_datagram(datagram, {pair.b.address, pair.a.address, 0}, pair.net.now());
    EXPECT_EQ(result.reason, DropReason::none);
    EXPECT_EQ(std::vector(result.inner.begin(), result.inner.end()), inner);
  }
}

// trap: paths-18 (late channel data or anything else is no WireGuard), and lengths come first
TEST(DeviceData, ClassifiesByTypeAndLengthOnly) {
  struct Case {
    std::uint32_t type;
    std::size_t length;
    MessageType expected;
  };
  for (const Case& one :
       {Case{1, 148, MessageType::initiation}, Case{1, 147, MessageType::none}, Case{1, 149, MessageType::none},
        Case{2, 92, MessageType::response}, Case{2, 91, MessageType::none}, Case{2, 93, MessageType::none},
        Case{3, 64, MessageType::cookie}, Case{3, 63, MessageType::none}, Case{3, 65, MessageType::none},
        Case{4, 31, MessageType::none}, Case{4, 32, MessageType::data}, Case{4, 33, MessageType::data},
        Case{4, 9000, MessageType::data}, Case{0, 148, MessageType::none}, Case{5, 148, MessageType::none},
        Case{0x101, 148, MessageType::none}, Case{0x01000004, 64, MessageType::none},
        Case{0x00400040, 64, MessageType::none}}) {
    std::vector<std::uint8_t> datagram(one.length);
    store_le(datagram.data(), one.type);
    EXPECT_EQ(classify(datagram), one.expected) << one.type << " " << one.length;
  }
  const std::vector<std::uint8_t> datagram(9000, 0);
  for (std::size_t length = 0; length <= datagram.size(); length += length < 40 ? 1 : 1000)
    EXPECT_EQ(classify(Bytes{datagram}.first(length)), MessageType::none);
}

TEST(DeviceData, InnerPacketsMustFitTheirMessage) {
  struct Case {
    const char* what;
    std::vector<std::uint8_t> inner;
    DropReason expected;
  };
  auto too_long = inner_packet(48);
  too_long[3] = 49;
  auto short_total = inner_packet(48);
  short_total[3] = 19;
  auto bad_ihl = inner_packet(48);
  bad_ihl[0] = 0x44;
  std::vector<std::uint8_t> v6(48);
  v6[0] = 0x60;
  v6[5] = 8;
  auto v6_long = v6;
  v6_long[5] = 9;
  std::vector<std::uint8_t> version7(48, 0x70);
  for (Case& one : std::vector<Case>{{"longer than its message", too_long, DropReason::inner_malformed},
                                     {"shorter than its header", short_total, DropReason::inner_malformed},
                                     {"header too short", bad_ihl, DropReason::inner_malformed},
                                     {"IPv6", v6, DropReason::none},
                                     {"IPv6 longer than its message", v6_long, DropReason::inner_malformed},
                                     {"version 7", version7, DropReason::inner_malformed},
                                     {"IPv6 cut", std::vector<std::uint8_t>(16, 0x60), DropReason::inner_malformed},
                                     {"empty", {}, DropReason::wg_keepalive}}) {
    MutableBytes inner;
    EXPECT_EQ(trim_padding(one.inner, inner), one.expected) << one.what;
  }
}

// Counters end before they wrap, and nothing is sent with a used one.
TEST(DeviceData, SessionsEndBeforeTheirCounters) {
  Pair pair;
  pair.establish();
  Session* session = pair.a.device->data_path().sending_session(0, pair.net.now().monotonic);
  session->send_counter.store(kRejectAfterMessages - 2);
  EXPECT_EQ(DataPath::reserve_counters(*session, 3), kNoCounter);
  EXPECT_EQ(DataPath::reserve_counters(*session, 1), kRejectAfterMessages - 2);
  EXPECT_EQ(DataPath::reserve_counters(*session, 1), kRejectAfterMessages - 1);
  EXPECT_EQ(DataPath::reserve_counters(*session, 1), kNoCounter);
  pair.net.run_for(seconds(6));
  EXPECT_TRUE(pair.delivers(pair.a, pair.b)) << "a new handshake replaces the exhausted session";
  EXPECT_EQ(DataPath::check_receive(*session, kRejectAfterMessages, pair.net.now().monotonic),
            DropReason::wg_session_expired);
}

TEST(DeviceData, RenewsAfterManyMessages) {
  Pair pair;
  pair.establish();
  // Either role: here the responder.
  Session* session = pair.b.device->data_path().sending_session(0, pair.net.now().monotonic);
  session->send_counter.store(kRekeyAfterMessages + 1);
  pair.net.send(pair.b, 0, inner_packet(60));
  pair.net.run_for(seconds(1));
  EXPECT_EQ(pair.b.count_sent(MessageType::initiation), 1U);
  EXPECT_EQ(pair.b.count(EventType::session_renewed), 1U);
  EXPECT_EQ(pair.a.received.size(), 1U);
}

// trap: io-3 — packets that waited for the session go before those that found it.
TEST(DeviceData, ADirectSendDoesNotOvertakeTheQueue) {
  for (const bool initiator : {true, false}) {
    Pair pair;
    Node& from = initiator ? pair.a : pair.b;
    Node& to = initiator ? pair.b : pair.a;
    std::uint8_t next = 1;
    const auto send =
        [&] { ASSERT_EQ(from.device->send(0, inner_packet(60, next++), pair.net.now()), DropReason::none); };
    if (!initiator) {  // the responder has an endpoint and something to say before the initiator has confirmed
      pair.a.device->want_session(0, pair.net.now());
      pair.net.collect(pair.a);
      pair.net.run_for(milliseconds(15));
    }
    for (int i = 0; i < 5; ++i) send();
    // One step at a time; after each, one more packet before the Device's output is looked at.
    for (int step = 0; step < 60; ++step) {
      pair.net.run_for(milliseconds(5));
      if (step % 3 == 0) send();
      pair.net.collect(from);
    }
    pair.net.run_for(seconds(1));
    ASSERT_EQ(to.received.size(), std::size_t{next} - 1);
    for (std::uint8_t i = 1; i < next; ++i) EXPECT_EQ(to.received[i - 1U], inner_packet(60, i)) << int{i};
  }
}

// trap: io-10 — with a thousand times the peers a packet, a timer and a handshake cost what they cost with a few. The
// bound is far above what caches do to them, and far below anything that looks at every peer.
TEST(DeviceData, WorkPerPacketDoesNotGrowWithPeers) {
  constexpr int kPackets = 3000;
  const auto cpu_time = [] {
    timespec spent{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
    return static_cast<double>(spent.tv_sec) * 1e9 + static_cast<double>(spent.tv_nsec);
  };
  struct Crowd {
    explicit Crowd(std::size_t peers) {
      config.max_peers = peers + 1;
      pair = std::make_unique<Pair>(PeerConfig{}, DeviceConfig{}, config);
      PeerConfig other;
      SeededRandom random{9};
      for (std::size_t i = 0; i < peers; ++i) {
        random.fill(other.public_key.bytes);
        other.endpoints = {{IpAddress::v4(0x0a000000 + static_cast<std::uint32_t>(i)), 1}};
        EXPECT_EQ(pair->b.device->add_peer(other, pair->net.now()).error, PeerError::none);
      }
      pair->establish();
    }
    DeviceConfig config;
    std::unique_ptr<Pair> pair;
    double best = 1e18;
  };
  Crowd few(8), many(8000);
  for (int round = 0; round < 7; ++round) {
    for (Crowd* crowd : {&few, &many}) {
      Pair& pair = *crowd->pair;
      const double before = cpu_time();
      for (int i = 0; i < kPackets; ++i) {
        pair.net.send(pair.b, 0, inner_packet(60, 1));
        pair.net.send(pair.a, 0, inner_packet(60, 2));
        if (i % 50 == 0) pair.net.run_for(milliseconds(30));
      }
      pair.a.device->drop_sessions(0, pair.net.now());  // and a new handshake
      pair.a.device->want_session(0, pair.net.now());
      pair.net.run_for(seconds(10));
      crowd->best = std::min(crowd->best, cpu_time() - before);
      pair.a.received.clear();
      pair.b.received.clear();
    }
  }
  EXPECT_LT(many.best, 4 * few.best) << few.best / kPackets << " ns and " << many.best / kPackets << " ns a packet";
}

}  // namespace
}  // namespace penstock::wireguard
