#include "controlplane/core/paths/stun_gatherer.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "tests/model/seeded_random.h"

namespace penstock::paths {
namespace {

using namespace std::chrono_literals;

Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}

const Endpoint kSocket = endpoint("0.0.0.0:41000");
const Endpoint kSocket6 = endpoint("[::]:41000");
const Endpoint kServer = endpoint("198.51.100.20:3478");
const Endpoint kServer2 = endpoint("198.51.100.21:3478");
const Endpoint kServer6 = endpoint("[2001:db8::20]:3478");

class StunGathererTest : public ::testing::Test {
 protected:
  // What a server sees; nullopt: it does not answer.
  using World = std::function<std::optional<Endpoint>(const Endpoint& local, const Endpoint& server)>;

  void run(Duration how_long) {
    const Instant until = time + how_long;
    for (;;) {
      drain();
      Instant next = std::min(until, gatherer.poll_timeout().at);
      if (!answers.empty()) next = std::min(next, answers.begin()->first);
      time = std::max(time, next);
      while (!answers.empty() && answers.begin()->first <= time) {
        const Transmit answer = answers.begin()->second;
        answers.erase(answers.begin());
        const auto message = stun::Message::parse(answer.bytes);
        gatherer.handle_response(*message, answer.local, answer.remote, time);
      }
      if (gatherer.poll_timeout().at <= time) {
        gatherer.handle_timeout(time);
        ASSERT_GT(gatherer.poll_timeout().at, time);  // trap: paths-21
      }
      drain();
      if (time >= until) return;
    }
  }
  void drain() {
    while (auto transmit = gatherer.poll_transmit()) {
      ++asked[transmit->remote];
      const auto request = stun::Message::parse(transmit->bytes);
      ASSERT_TRUE(request);
      EXPECT_LE(transmit->bytes.size(), 64u);
      EXPECT_EQ(transmit->local.address.is_v4(), transmit->remote.address.is_v4());
      const auto mapped = world(transmit->local, transmit->remote);
      if (!mapped) continue;
      std::vector<std::uint8_t> bytes(64);
      bytes.resize(stun::build_binding_response(bytes, request->transaction_id(), *mapped).size());
      answers.emplace(time + 20ms, Transmit{bytes, transmit->local, transmit->remote});
    }
    while (gatherer.poll_moved()) ++moved;
  }
  void targets(std::vector<Endpoint> sockets, std::vector<Endpoint> servers) {
    gatherer.set_targets(sockets, servers, time);
  }

  model::SeededRandom random{3};
  StunGatherer gatherer{random};
  Instant time{1h};
  World world = [](const Endpoint& local, const Endpoint&) -> std::optional<Endpoint> {
    return local == kSocket ? endpoint("203.0.113.50:6000") : endpoint("[2001:db8:50::1]:41000");
  };
  std::multimap<Instant, Transmit> answers;
  std::map<Endpoint, std::size_t> asked;
  std::size_t moved = 0;
};

// trap: paths-15 paths-16
TEST_F(StunGathererTest, EachMappingOnceOfBothFamilies) {
  targets({kSocket, kSocket6}, {kServer, kServer2, kServer6, kServer});
  run(100ms);
  EXPECT_EQ(gatherer.reflexive(time),
            (std::vector<Endpoint>{endpoint("203.0.113.50:6000"), endpoint("[2001:db8:50::1]:41000")}));
  EXPECT_TRUE(gatherer.rtt(kServer6));
}

TEST_F(StunGathererTest, PaceOfTheTick) {
  targets({kSocket}, {kServer, kServer2});
  run(1s);
  const auto rate = [&](StunGatherer::Pace pace, Duration how_long) {
    gatherer.set_pace(pace, time);
    asked.clear();
    run(how_long);
    return asked[kServer];
  };
  EXPECT_NEAR(static_cast<double>(rate(StunGatherer::Pace::busy, 15s)), 100, 2);
  EXPECT_LE(asked[kServer2], 2u) << "only one server is ticked";
  EXPECT_NEAR(static_cast<double>(rate(StunGatherer::Pace::active, 60s)), 60, 2);
  EXPECT_NEAR(static_cast<double>(rate(StunGatherer::Pace::idle, 1000s)), 40, 2);
}

TEST_F(StunGathererTest, ChangeCountsWhenTheSameServerSaysItTwice) {
  targets({kSocket}, {kServer});
  gatherer.set_pace(StunGatherer::Pace::busy, time);
  run(1s);
  // Once is nothing.
  int lies = 1;
  world = [&](const Endpoint&, const Endpoint&) -> std::optional<Endpoint> {
    return lies-- > 0 ? endpoint("203.0.113.50:7000") : endpoint("203.0.113.50:6000");
  };
  run(1s);
  EXPECT_EQ(moved, 0u);
  world = [](const Endpoint&, const Endpoint&) { return std::optional{endpoint("203.0.113.50:7000")}; };
  run(250ms);
  EXPECT_EQ(moved, 1u);
  EXPECT_EQ(gatherer.reflexive(time), std::vector<Endpoint>{endpoint("203.0.113.50:7000")});
  run(10s);
  EXPECT_EQ(moved, 1u);
}

// trap: paths-11 - a NAT that gives every packet another port is no news at all
TEST_F(StunGathererTest, FlippingPortsMakeNoStorm) {
  std::uint16_t port = 5000;
  world = [&](const Endpoint& local, const Endpoint&) -> std::optional<Endpoint> {
    return Endpoint{local == kSocket ? endpoint("203.0.113.50:1").address : IpAddress{}, ++port};
  };
  targets({kSocket}, {kServer});
  gatherer.set_pace(StunGatherer::Pace::busy, time);
  run(60s);
  EXPECT_EQ(moved, 0u);
  EXPECT_LE(asked[kServer], 60u * 20);
}

// trap: paths-15 - stale mappings go, missing ones come
TEST_F(StunGathererTest, SilentServersAreAskedForEverAndTheirWordGoesStale) {
  const World answering = world;
  targets({kSocket}, {kServer});
  run(1s);
  world = [](const Endpoint&, const Endpoint&) { return std::nullopt; };
  run(100s);
  EXPECT_TRUE(gatherer.reflexive(time).empty());
  asked.clear();
  run(1h);
  EXPECT_GE(asked[kServer], 100u);
  EXPECT_LE(asked[kServer], 130u);
  world = answering;
  run(31s);
  EXPECT_EQ(gatherer.reflexive(time).size(), 1u);
}

TEST_F(StunGathererTest, AnotherServerTakesOverTheTick) {
  targets({kSocket}, {kServer, kServer2});
  gatherer.set_pace(StunGatherer::Pace::busy, time);
  run(1s);
  const World answering = world;
  world = [&](const Endpoint& local, const Endpoint& server) -> std::optional<Endpoint> {
    return server == kServer ? std::nullopt : answering(local, server);
  };
  run(30s);
  asked.clear();
  run(15s);
  EXPECT_GE(asked[kServer2], 95u);
}

TEST_F(StunGathererTest, RestartForgetsAndAsksAtOnce) {
  targets({kSocket}, {kServer});
  run(1s);
  answers.clear();
  gatherer.restart(time);
  EXPECT_TRUE(gatherer.reflexive(time).empty());
  run(25ms);
  EXPECT_EQ(gatherer.reflexive(time).size(), 1u);
}

TEST_F(StunGathererTest, AnswersNobodyAskedForAreRefused) {
  targets({kSocket}, {kServer});
  run(1s);
  std::vector<std::uint8_t> bytes(64);
  bytes.resize(stun::build_binding_response(bytes, {}, endpoint("192.0.2.66:1")).size());
  const auto message = stun::Message::parse(bytes);
  EXPECT_EQ(gatherer.handle_response(*message, kSocket, kServer, time), DropReason::stun_unexpected);
  EXPECT_EQ(gatherer.handle_response(*message, kSocket, kServer2, time), DropReason::stun_unexpected);
  EXPECT_EQ(gatherer.reflexive(time).size(), 1u);
}

}  // namespace
}  // namespace penstock::paths
