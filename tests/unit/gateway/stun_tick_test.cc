#include "dataplane/gateway/stun_tick.h"

#include <gtest/gtest.h>

#include "tests/unit/gateway/buffers.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::gateway::test {
namespace {

using namespace std::chrono_literals;

const Endpoint kA{ip("198.51.100.20"), 3478};
const Endpoint kB{ip("198.51.100.21"), 3478};
const Endpoint kOld{ip("198.51.100.2"), 40000};
const Endpoint kNew{ip("198.51.100.2"), 50000};

class Tick : public testing::Test {
 protected:
  // Lets time pass; servers answer with `mapped` unless mute.
  std::vector<std::pair<Instant, Endpoint>> advance(Duration time) {
    std::vector<std::pair<Instant, Endpoint>> asked;
    const Instant end = now + time;
    while (tick.next_timeout() <= end) {
      now = std::max(now, tick.next_timeout());
      tick.handle_timeout(now);
      EXPECT_GT(tick.next_timeout(), now);  // trap: paths-21
      pump(asked);
    }
    now = end;
    return asked;
  }
  void pump(std::vector<std::pair<Instant, Endpoint>>& asked) {
    while (const auto request = tick.poll_request()) {
      asked.emplace_back(now, request->server);
      if (mute) continue;
      EXPECT_EQ(answer(*request, mapped), StunTick::Verdict::consumed);
    }
    while (const auto what = tick.poll_mapped()) news.push_back(*what);
  }
  StunTick::Verdict answer(const StunTick::Request& request, const Endpoint& as) {
    std::array<std::uint8_t, 64> buffer;
    return tick.handle(stun::build_binding_response(buffer, request.transaction, as), request.server, now);
  }

  SeededRandom random;
  StunTick tick{random};
  Instant now{1h};
  Endpoint mapped = kOld;
  bool mute = false;
  std::vector<StunTick::Mapped> news;
};

TEST_F(Tick, AlternatesAtThePaceOfTheBusiest) {
  const Endpoint servers[] = {kA, kB};
  tick.set_servers(servers, now);
  tick.set_pace(StunTick::Pace::busy, now);
  const auto asked = advance(3s);
  ASSERT_EQ(asked.size(), 21U);
  for (std::size_t i = 1; i < asked.size(); ++i) {
    EXPECT_EQ(asked[i].first - asked[i - 1].first, 150ms);
    EXPECT_NE(asked[i].second, asked[i - 1].second);
  }
  tick.set_pace(StunTick::Pace::active, now);
  EXPECT_EQ(advance(10s).size(), 10U);
  tick.set_pace(StunTick::Pace::idle, now);
  EXPECT_EQ(advance(100s).size(), 4U);
  // trap: paths-7: waking is immediate.
  tick.set_pace(StunTick::Pace::busy, now);
  EXPECT_LE(tick.next_timeout() - now, 150ms);
}

TEST_F(Tick, AChangeCountsWhenOneServerHasSaidItTwice) {
  const Endpoint servers[] = {kA, kB};
  tick.set_servers(servers, now);
  tick.set_pace(StunTick::Pace::busy, now);
  advance(1s);
  ASSERT_EQ(news.size(), 2U);
  EXPECT_FALSE(news[0].changed);
  news.clear();
  mapped = kNew;
  const Instant before = now;
  while (news.empty()) {
    const auto asked = advance(10ms);
    EXPECT_TRUE(asked.empty() || !news.empty());  // confirmed by a second request to the same server, at once
  }
  EXPECT_LE(now - before, 160ms);
  EXPECT_TRUE(news[0].changed);
  EXPECT_EQ(news[0].mapped, kNew);
}

TEST_F(Tick, OneOddAnswerChangesNothing) {
  const Endpoint servers[] = {kA};
  tick.set_servers(servers, now);
  tick.set_pace(StunTick::Pace::busy, now);
  advance(1s);
  news.clear();
  mute = true;
  now = tick.next_timeout();
  tick.handle_timeout(now);
  const auto request = tick.poll_request();
  ASSERT_TRUE(request);
  EXPECT_EQ(answer(*request, kNew), StunTick::Verdict::consumed);
  const auto again = tick.poll_request();
  ASSERT_TRUE(again) << "asked again at once";
  EXPECT_EQ(answer(*request, kNew), StunTick::Verdict::not_ours) << "a copy of the first answer";
  EXPECT_EQ(answer(*again, kOld), StunTick::Verdict::consumed);
  EXPECT_FALSE(tick.poll_mapped());
  mute = false;
  advance(1s);
  EXPECT_TRUE(news.empty());
}

TEST_F(Tick, IgnoresStrangers) {
  const Endpoint servers[] = {kA};
  tick.set_servers(servers, now);
  tick.handle_timeout(now);
  const auto request = tick.poll_request();
  ASSERT_TRUE(request);
  EXPECT_EQ(answer({kB, request->transaction}, kNew), StunTick::Verdict::not_ours);
  EXPECT_EQ(answer({kA, stun::TransactionId{1, 2, 3}}, kNew), StunTick::Verdict::not_ours);
  std::array<std::uint8_t, 64> buffer;
  EXPECT_EQ(tick.handle(stun::build_binding_request(buffer, request->transaction), kA, now),
            StunTick::Verdict::not_ours);
  EXPECT_EQ(tick.handle(text("nonsense"), kA, now), StunTick::Verdict::malformed);
  EXPECT_FALSE(tick.poll_mapped());
  EXPECT_EQ(answer(*request, kOld), StunTick::Verdict::consumed);
}

TEST_F(Tick, SaysWhenAServerIsGoneAndKeepsWhatStays) {
  const Endpoint both[] = {kA, kB, kA};
  tick.set_servers(both, now);
  tick.set_pace(StunTick::Pace::busy, now);
  advance(1s);
  news.clear();
  tick.set_servers(both, now);
  EXPECT_EQ(advance(1s).size(), 7U) << "the same list is no reason to ask anew; the repeated server counts once";
  EXPECT_TRUE(news.empty());
  mute = true;
  advance(5s);
  ASSERT_EQ(news.size(), 2U);
  EXPECT_EQ(news[0].mapped, Endpoint{});
  tick.set_servers({}, now);
  EXPECT_EQ(tick.next_timeout(), kNever);
}

}  // namespace
}  // namespace penstock::gateway::test
