// Under load: cookies on both sides, per-source limits, and initiations over several paths.
#include <gtest/gtest.h>

#include "dataplane/core/wireguard/cookie.h"
#include "dataplane/core/wireguard/rate_limit.h"
#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

TEST(UnderLoad, StandardPeerGetsThroughWithItsRetry) {
  Pair pair;
  pair.b.device->set_under_load(true);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(6));
  EXPECT_EQ(pair.b.count(DropReason::wg_mac2_required), 1U);
  EXPECT_EQ(pair.b.count_sent(MessageType::cookie), 1U);
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 2U);
  EXPECT_EQ(pair.b.received.size(), 1U);
}

TEST(UnderLoad, PathSwitchPeerGetsThroughIn250Milliseconds) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.b.device->set_under_load(true);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(milliseconds(300));
  EXPECT_EQ(pair.b.received.size(), 1U);
}

TEST(UnderLoad, ResponsesNeedCookiesToo) {
  Pair pair;
  pair.a.device->set_under_load(true);
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(6));
  EXPECT_EQ(pair.a.count(DropReason::wg_mac2_required), 1U);
  EXPECT_EQ(pair.b.received.size(), 1U) << "B's second response carries a mac2";
}

TEST(UnderLoad, CookieOfAnotherPortIsWorthless) {
  Pair pair;
  pair.b.device->set_under_load(true);
  bool moved = false;
  pair.net.filter = [&](Endpoint& source, Endpoint& destination, std::vector<std::uint8_t>&) {
    if (source == pair.a.address && moved) source.port = 1001;
    if (destination == endpoint("198.51.100.1:1001")) destination.port = 1000;
    return true;
  };
  pair.net.send(pair.a, 0, inner_packet(60));
  pair.net.run_for(seconds(1));
  moved = true;
  pair.net.run_for(seconds(5));
  EXPECT_EQ(pair.b.count(DropReason::wg_mac2_required), 2U);
  EXPECT_EQ(pair.b.received.size(), 0U);
  pair.net.run_for(seconds(6));
  EXPECT_EQ(pair.b.received.size(), 1U) << "with the cookie for the new port";
}

TEST(Cookies, TheSecretChangesEveryTwoMinutes) {
  SeededRandom random(5);
  const PublicKey own = public_key(private_key(1));
  CookieGiver giver(own, random);
  std::array<std::uint8_t, 148> message{};
  message[0] = 1;
  const Mac mac1 = put_mac1(message, own);
  ASSERT_TRUE(giver.mac1_valid(message));
  const Instant start = time_at({}).monotonic;
  const Endpoint source = endpoint("[2001:db8::1]:5");
  CookieTaker taker;
  const Path path{{}, endpoint("203.0.113.1:2000"), 0};
  ASSERT_TRUE(taker.take(giver.make_reply(message, 7, source, start), own, mac1, path, start));
  put_mac2(message, taker.find(path, start));
  EXPECT_TRUE(giver.mac2_valid(message, source, start));
  EXPECT_TRUE(giver.mac2_valid(message, source, start + seconds(119)));
  EXPECT_FALSE(giver.mac2_valid(message, endpoint("[2001:db8::1]:6"), start));
  EXPECT_FALSE(giver.mac2_valid(message, endpoint("[2001:db8::2]:5"), start));
  EXPECT_FALSE(giver.mac2_valid(message, source, start + seconds(120)));
  EXPECT_FALSE(giver.mac2_valid(message, source, start + seconds(121)));
  // The taker stops using it a little earlier, and only ever for the path it was given for.
  EXPECT_TRUE(taker.find(path, start + seconds(114)));
  EXPECT_FALSE(taker.find(path, start + seconds(115)));
  EXPECT_FALSE(taker.find(Path{{}, endpoint("203.0.113.1:2000"), 1}, start));
  put_mac2(message, std::nullopt);
  EXPECT_FALSE(giver.mac2_valid(message, source, start));
}

TEST(Cookies, ForgedRepliesAreRefused) {
  Pair pair;
  pair.a.device->want_session(0, pair.net.now());
  const auto sent = pair.a.device->poll_output();
  ASSERT_TRUE(sent);
  CookieMessage forged{};
  forged.type.set(3);
  forged.receiver.set(load_le<std::uint32_t>(sent->bytes.data() + 4));
  const Bytes bytes{reinterpret_cast<const std::uint8_t*>(&forged), sizeof forged};
  const Path from{pair.a.address, pair.b.address, 0};
  EXPECT_EQ(pair.a.device->handle_handshake(bytes, from, pair.net.now()), DropReason::wg_cookie_invalid);
  forged.receiver.set(forged.receiver.get() + 1);
  EXPECT_EQ(pair.a.device->handle_handshake(bytes, from, pair.net.now()), DropReason::wg_cookie_invalid);
}

// trap: paths-2
TEST(UnderLoad, OneNoisySourceDoesNotHarmTheOthers) {
  DeviceConfig config;
  config.under_load_per_s = 100;
  Pair pair({}, {}, config);
  // A replays one genuine initiation a thousand times from its address; the rest of the world is served at once.
  pair.a.device->want_session(0, pair.net.now());
  const auto genuine = pair.a.device->poll_output()->bytes;
  for (int i = 0; i < 1000; ++i) {
    pair.net.inject(pair.a.address, pair.b.address, genuine, milliseconds(i));
  }
  Node& c = pair.net.add("c", "198.51.100.77:1000");
  ASSERT_EQ(c.device->add_peer(Pair::of(pair.b), pair.net.now()).error, PeerError::none);
  ASSERT_EQ(pair.b.device->add_peer(Pair::of(c, {}, false), pair.net.now()).error, PeerError::none);
  pair.net.run_for(milliseconds(500));
  pair.net.send(c, 0, inner_packet(60));
  pair.net.run_for(milliseconds(100));
  EXPECT_EQ(pair.b.received.size(), 1U);
  EXPECT_FALSE(pair.b.device->under_load());
  EXPECT_GE(pair.b.count(DropReason::wg_mac2_required), 400U);
}

TEST(UnderLoad, ManySourcesPutEverybodyUnderLoadForASecond) {
  DeviceConfig config;
  config.under_load_per_s = 100;
  Pair pair({}, {}, config);
  pair.a.device->want_session(0, pair.net.now());
  const auto genuine = pair.a.device->poll_output()->bytes;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    const Path from{pair.b.address, {IpAddress::v4(0xc0000200 + i * 77), 9}, 0};
    pair.b.device->handle_handshake(genuine, from, pair.net.now());
  }
  EXPECT_TRUE(pair.b.device->under_load());
  std::size_t cookies = 0;
  while (auto out = pair.b.device->poll_output()) cookies += out->bytes[0] == 3;
  EXPECT_GE(cookies, 890U);
  pair.net.run_for(seconds(2));
  pair.b.device->handle_timeout(pair.net.now());
  EXPECT_FALSE(pair.b.device->under_load());
}

TEST(SourceLimiter, CountsPerIpv4HostAndPerIpv6Subnet) {
  SeededRandom random(1);
  SourceLimiter limiter(64, 20, 5, random);
  const Instant start = time_at({}).monotonic;
  const auto v4 = IpAddress::parse("198.51.100.1").value();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(limiter.allow(v4, start));
  EXPECT_FALSE(limiter.allow(v4, start));
  EXPECT_TRUE(limiter.allow(IpAddress::parse("198.51.100.2").value(), start));
  EXPECT_FALSE(limiter.allow(v4, start + milliseconds(49)));
  EXPECT_TRUE(limiter.allow(v4, start + milliseconds(100)));
  for (int i = 0; i < 5; ++i)
    EXPECT_TRUE(limiter.allow(IpAddress::parse("2001:db8::" + std::to_string(i + 1)).value(), start));
  EXPECT_FALSE(limiter.allow(IpAddress::parse("2001:db8:0:0:ffff::1").value(), start));
  EXPECT_TRUE(limiter.allow(IpAddress::parse("2001:db8:0:1::1").value(), start));
  // A clock that does not move, or moves back, gives nothing away.
  EXPECT_FALSE(limiter.allow(IpAddress::parse("2001:db8::1").value(), start - seconds(100)));
}

TEST(SourceLimiter, ARateWithoutBoundLetsEverybodyIn) {
  SeededRandom random(1);
  SourceLimiter limiter(16, 1U << 30, 1U << 30, random);
  const Instant start = time_at({}).monotonic;
  const auto v4 = IpAddress::parse("198.51.100.1").value();
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limiter.allow(v4, start));
}

TEST(SourceLimiter, MemoryIsBoundedUnderAnyNumberOfSources) {
  SeededRandom random(1);
  SourceLimiter limiter(16, 20, 5, random);
  const Instant start = time_at({}).monotonic;
  for (std::uint32_t i = 0; i < 100000; ++i) EXPECT_TRUE(limiter.allow(IpAddress::v4(i), start + Duration(i)));
}

// --- Several paths (paths.md "First packet" 4) -------------------------------------------------------------------

struct Copies {
  std::vector<std::vector<std::uint8_t>> bytes;
  std::vector<Path> paths;
};

Copies take_output(Device& device) {
  Copies copies;
  while (auto out = device.poll_output()) {
    copies.bytes.push_back(out->bytes);
    copies.paths.push_back(out->path);
  }
  return copies;
}

TEST(Copies, AreIdenticalSaveForMac2AndRotate) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  Device& device = *pair.a.device;
  const std::vector<Path> paths{{{}, endpoint("203.0.113.1:2000"), 0},
                                {{}, endpoint("203.0.113.1:2000"), 1},
                                {{}, endpoint("[2001:db8::1]:2000"), 0}};
  device.set_handshake_paths(0, paths, pair.net.now());
  device.want_session(0, pair.net.now());
  Copies first = take_output(device);
  ASSERT_EQ(first.paths, paths);
  EXPECT_EQ(first.bytes[0], first.bytes[1]);
  EXPECT_EQ(first.bytes[0], first.bytes[2]);

  // A cookie that came over the second path marks only the copy of that path.
  pair.b.device->set_under_load(true);
  pair.b.device->handle_handshake(first.bytes[1], {pair.b.address, endpoint("192.0.2.1:9"), 0}, pair.net.now());
  const auto cookie = pair.b.device->poll_output();
  ASSERT_TRUE(cookie);
  EXPECT_EQ(device.handle_handshake(cookie->bytes, paths[1], pair.net.now()), DropReason::none);

  Now later = pair.net.now();
  later.monotonic += milliseconds(250);
  device.handle_timeout(later);
  const Copies second = take_output(device);
  EXPECT_EQ(second.paths, (std::vector<Path>{paths[1], paths[2], paths[0]})) << "rotated";
  EXPECT_NE(second.bytes[0], first.bytes[0]) << "a fresh initiation, not a repetition";
  const auto without_mac2 = [](const std::vector<std::uint8_t>& message) {
    return std::vector<std::uint8_t>(message.begin(), message.end() - 16);
  };
  EXPECT_EQ(without_mac2(second.bytes[0]), without_mac2(second.bytes[1]));
  EXPECT_EQ(without_mac2(second.bytes[0]), without_mac2(second.bytes[2]));
  EXPECT_NE(second.bytes[0], second.bytes[1]);
  EXPECT_EQ(second.bytes[1], second.bytes[2]);
  pair.b.device->set_under_load(true);
  EXPECT_EQ(pair.b.device->handle_handshake(second.bytes[1], {pair.b.address, endpoint("192.0.2.1:9"), 0}, later),
            DropReason::wg_mac2_required);
  EXPECT_EQ(pair.b.device->handle_handshake(second.bytes[0], {pair.b.address, endpoint("192.0.2.1:9"), 0}, later),
            DropReason::none);
}

// A path that carries nothing back may be the fastest in every try: each path gets its answer, the endpoint is the
// first one's, and a replay is answered neither twice over a path nor later nor without bound.
TEST(Copies, AreAnsweredOnEachPathForAMoment) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.a.device->want_session(0, pair.net.now());
  const auto message = pair.a.device->poll_output()->bytes;
  const Path direct{pair.b.address, pair.a.address, 0}, relayed{pair.b.address, endpoint("192.0.2.1:9"), 0};
  EXPECT_EQ(pair.b.device->handle_handshake(message, relayed, pair.net.now()), DropReason::none);
  const auto first = pair.b.device->poll_output();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->path, relayed);
  EXPECT_EQ(pair.b.device->handle_handshake(message, direct, pair.net.now()), DropReason::none);
  const auto second = pair.b.device->poll_output();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->path, direct);
  EXPECT_EQ(second->bytes, first->bytes);
  EXPECT_EQ(pair.b.device->data_path().endpoint(0), relayed);

  EXPECT_EQ(pair.b.device->handle_handshake(message, direct, pair.net.now()), DropReason::wg_handshake_replay);
  for (std::uint16_t port = 1; port < 100; ++port)
    (void)pair.b.device->handle_handshake(message, {pair.b.address, {relayed.remote.address, port}, 0}, pair.net.now());
  std::size_t answers = 0;
  while (auto out = pair.b.device->poll_output()) answers += out->bytes[0] == 2 ? 1 : 0;
  EXPECT_LE(answers, 14U);
  Now later = pair.net.now();
  later.monotonic += milliseconds(501);
  EXPECT_EQ(pair.b.device->handle_handshake(message, {pair.b.address, endpoint("192.0.2.77:9"), 0}, later),
            DropReason::wg_handshake_replay);

  // A peer that chooses no paths is answered once.
  Pair standard;
  standard.a.device->want_session(0, standard.net.now());
  const auto plain = standard.a.device->poll_output()->bytes;
  EXPECT_EQ(standard.b.device->handle_handshake(plain, relayed, standard.net.now()), DropReason::none);
  EXPECT_EQ(standard.b.device->handle_handshake(plain, direct, standard.net.now()), DropReason::wg_handshake_replay);
}

TEST(Copies, TheFirstMessageShowsThePathThatIsUsed) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  pair.a.device->want_session(0, pair.net.now());
  const auto initiation = pair.a.device->poll_output()->bytes;
  const Path dead{pair.b.address, endpoint("192.0.2.1:9"), 0}, used{pair.b.address, pair.a.address, 0};
  ASSERT_EQ(pair.b.device->handle_handshake(initiation, dead, pair.net.now()), DropReason::none);
  ASSERT_EQ(pair.b.device->handle_handshake(initiation, used, pair.net.now()), DropReason::none);
  pair.b.device->poll_output();
  const auto response = pair.b.device->poll_output()->bytes;
  EXPECT_EQ(pair.b.device->data_path().endpoint(0), dead);
  const Path to_b{pair.a.address, pair.b.address, 0};
  ASSERT_EQ(pair.a.device->handle_handshake(response, to_b, pair.net.now()), DropReason::none);
  ASSERT_EQ(pair.a.device->send(0, inner_packet(60), pair.net.now()), DropReason::none);
  auto first = pair.a.device->poll_output()->bytes;
  (void)pair.b.device->handle_datagram(first, used, pair.net.now());
  EXPECT_EQ(pair.b.device->data_path().endpoint(0), used);
}

// A path that is found while the answer is on its way gets a copy of the same initiation: a fresh one would make that
// answer void, and with paths found one by one no answer would ever count.
TEST(Copies, NewPathsAreNotKeptWaitingForTheRetryNorDisturbIt) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  Device& device = *pair.a.device;
  const Path first{{}, pair.b.address, 0};
  std::vector<Path> paths{first};
  device.set_handshake_paths(0, paths, pair.net.now());
  device.want_session(0, pair.net.now());
  const Instant sent = pair.net.now().monotonic;
  const Copies one = take_output(device);
  ASSERT_EQ(one.paths.size(), 1U);
  ASSERT_EQ(pair.b.device->handle_handshake(one.bytes[0], {pair.b.address, pair.a.address, 0}, pair.net.now()),
            DropReason::none);
  const auto answer = pair.b.device->poll_output();
  ASSERT_TRUE(answer);
  device.set_handshake_paths(0, paths, pair.net.now());
  EXPECT_TRUE(take_output(device).paths.empty()) << "nothing new";
  Now later = pair.net.now();
  for (std::uint16_t port = 1; port <= 5; ++port) {
    later.monotonic += milliseconds(30);
    device.handle_timeout(later);
    paths.insert(paths.begin(), Path{{}, {endpoint("203.0.113.1:7").address, port}, 1});
    device.set_handshake_paths(0, paths, later);
    const Copies more = take_output(device);
    ASSERT_EQ(more.paths, std::vector<Path>(1, paths.front()));
    EXPECT_EQ(more.bytes[0], one.bytes[0]);
  }
  EXPECT_EQ(device.poll_timeout().at, later.monotonic + milliseconds(150)) << "the last copy's answer may come";
  EXPECT_GT(device.poll_timeout().at, sent + milliseconds(250));
  EXPECT_EQ(device.handle_handshake(answer->bytes, first, later), DropReason::none);
  EXPECT_NE(device.data_path().sending_session(0, later.monotonic), nullptr);
}

// What has been out for long may have been taken, with the answer lost: the new path gets a fresh one, soon.
TEST(Copies, ANewPathGetsAFreshInitiationWhenTheLastIsOld) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  Device& device = *pair.a.device;
  const Path first{{}, pair.b.address, 0}, learned{{}, endpoint("203.0.113.1:7"), 1};
  device.set_handshake_paths(0, {first}, pair.net.now());
  device.want_session(0, pair.net.now());
  const Copies one = take_output(device);
  Now later = pair.net.now();
  later.monotonic += milliseconds(250);
  device.handle_timeout(later);
  EXPECT_EQ(take_output(device).paths.size(), 1U);
  later.monotonic += milliseconds(300);
  device.handle_timeout(later);
  device.set_handshake_paths(0, {learned, first}, later);
  ASSERT_LE(device.poll_timeout().at, later.monotonic);
  device.handle_timeout(later);
  const Copies two = take_output(device);
  ASSERT_EQ(two.paths.size(), 2U);
  EXPECT_NE(two.bytes[0], one.bytes[0]);
}

TEST(Copies, RenewalsUseThePrimaryPathFirst) {
  PeerConfig config;
  config.path_switch = true;
  Pair pair(config);
  const Path primary{{}, pair.b.address, 0}, other{{}, endpoint("192.0.2.1:9"), 1};
  pair.a.device->set_handshake_paths(0, {primary, other}, pair.net.now());
  pair.establish();
  pair.a.device->data_path().sending_session(0, pair.net.now().monotonic)->send_counter.store(kRekeyAfterMessages + 1);
  ASSERT_EQ(pair.a.device->send(0, inner_packet(60), pair.net.now()), DropReason::none);
  std::vector<Endpoint> asked;
  while (auto out = pair.a.device->poll_output())
    if (out->bytes[0] == 1) asked.push_back(out->path.remote);
  EXPECT_EQ(asked, std::vector<Endpoint>(1, pair.b.address));
  Now later = pair.net.now();
  later.monotonic += milliseconds(250);
  pair.a.device->handle_timeout(later);
  EXPECT_EQ(take_output(*pair.a.device).paths.size(), 2U) << "a renewal that is not answered tries everything";
}

TEST(Copies, HintsServeUntilAnEndpointIsKnown) {
  for (const bool path_switch : {false, true}) {
    PeerConfig config;
    config.path_switch = path_switch;
    config.endpoints = {endpoint("192.0.2.1:1"), endpoint("192.0.2.2:2"), endpoint("203.0.113.1:2000")};
    Pair pair(config);
    pair.net.send(pair.a, 0, inner_packet(60));
    EXPECT_EQ(pair.a.sent_types.size(), path_switch ? 3U : 1U) << "a standard peer's hints are tried in turn";
    pair.net.run_for(seconds(12));
    EXPECT_EQ(pair.b.received.size(), 1U);
    EXPECT_EQ(pair.a.device->data_path().endpoint(0)->remote, pair.b.address);
  }
}

}  // namespace
}  // namespace penstock::wireguard
