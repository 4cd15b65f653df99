// One initiation over several paths, and its answers.
#include <gtest/gtest.h>

#include "tests/unit/wireguard/pair.h"

namespace penstock::wireguard {
namespace {

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

// The peer's NAT has refused the first copy, and a punch tells that it would not now.
TEST(Copies, APathThatOpensGetsTheInitiationAgainOnce) {
  for (const bool path_switch : {true, false}) {
    PeerConfig config;
    config.path_switch = path_switch;
    Pair pair(config);
    Device& device = *pair.a.device;
    const Path first{{}, pair.b.address, 0}, other{{}, endpoint("203.0.113.1:7"), 1};
    device.path_opened(0, first, pair.net.now());
    device.path_opened(7, first, pair.net.now());  // nobody
    EXPECT_TRUE(take_output(device).paths.empty()) << "nothing is under way";
    device.set_handshake_paths(0, {first}, pair.net.now());
    device.want_session(0, pair.net.now());
    const Copies one = take_output(device);
    Now later = pair.net.now();
    const auto opened = [&](Duration after, const Path& path) {
      later.monotonic = pair.net.now().monotonic + after;
      device.path_opened(0, path, later);
      return take_output(device);
    };
    EXPECT_TRUE(opened(milliseconds(24), first).paths.empty()) << "its answer may be on its way";
    EXPECT_TRUE(opened(milliseconds(25), other).paths.empty()) << "not where it went";
    const Copies again = opened(milliseconds(26), first);
    if (!path_switch) {
      EXPECT_TRUE(again.paths.empty());
      continue;
    }
    ASSERT_EQ(again.paths, std::vector<Path>{first});
    EXPECT_EQ(again.bytes[0], one.bytes[0]);
    EXPECT_TRUE(opened(milliseconds(60), first).paths.empty()) << "anybody can send a punch";
    EXPECT_EQ(pair.b.device->handle_handshake(again.bytes[0], {pair.b.address, pair.a.address, 0}, later),
              DropReason::none);
    const auto answer = pair.b.device->poll_output();
    ASSERT_TRUE(answer);
    EXPECT_EQ(device.handle_handshake(answer->bytes, first, later), DropReason::none);
    static_cast<void>(take_output(device));  // a keepalive, which confirms it
    EXPECT_TRUE(opened(milliseconds(90), first).paths.empty()) << "answered";
  }
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
