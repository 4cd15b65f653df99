// Under load: cookies on both sides, and per-source limits.
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

}  // namespace
}  // namespace penstock::wireguard
