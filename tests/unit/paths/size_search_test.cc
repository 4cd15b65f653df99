// How long packets may be: RFC 8899 over a path that carries so many bytes and no more.
#include "controlplane/core/paths/size_search.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "tests/unit/paths/path_bench.h"

namespace penstock::paths {
namespace {

// A path under virtual time. Other traffic is heard on it all the time, unless it is dead.
struct Way {
  explicit Way(std::uint16_t ceiling, std::uint64_t seed = 1) : search(ceiling), random(seed) {}

  void run(Duration time, bool busy = true) {
    const Instant until = now + time;
    while (true) {
      Instant next = std::min(until, search.next_timeout());
      if (!answers.empty()) next = std::min(next, answers.begin()->first);
      now = std::max(now, next);
      while (!answers.empty() && answers.begin()->first <= now) {
        search.answered(answers.begin()->second, now);
        answers.erase(answers.begin());
      }
      if (search.next_timeout() <= now) {
        if (const auto size = search.poll(now, 200ms, dead ? died : now, busy)) {
          ++probes;
          largest = std::max(largest, *size);
          search.sent(++id, now);
          if (!dead && *size <= carries && random.next_u64() % 1000 >= loss_permille) answers.emplace(now + 30ms, id);
        }
        ASSERT_GT(search.next_timeout(), now) << "live-lock";
      }
      if (now >= until) return;
    }
  }

  SizeSearch search;
  model::SeededRandom random;
  std::multimap<Instant, std::uint64_t> answers;
  Instant now{1h};
  Instant died{};
  std::size_t carries = 9000;
  unsigned loss_permille = 0;
  bool dead = false;
  std::uint64_t id = 0;
  unsigned probes = 0;
  std::uint16_t largest = 0;
};

std::size_t expected(std::size_t ceiling, std::size_t carries) {
  return carries >= ceiling ? ceiling : std::max<std::size_t>(carries / SizeSearch::kStep * SizeSearch::kStep, 1280);
}

RC_GTEST_PROP(SizeSearch, FindsWhatThePathCarries, ()) {
  const auto ceiling = *rc::gen::inRange<std::uint16_t>(1281, 9001);
  const auto carries = *rc::gen::inRange<std::size_t>(1280, 9200);
  Way way(ceiling);
  way.carries = carries;
  way.search.run(way.now);
  RC_ASSERT(way.search.usable() == ceiling);  // believed until it is known better
  way.run(400ms);
  RC_ASSERT(way.search.usable() <= std::max<std::size_t>(carries, 1280));
  way.run(5s);
  RC_ASSERT(way.search.usable() == expected(ceiling, carries));
  RC_ASSERT(way.search.proved() == (way.search.usable() > 1280));
  RC_ASSERT(way.probes <= 40U);
  RC_ASSERT(way.largest <= ceiling);
  // what padding cannot exceed
  RC_ASSERT(way.search.usable() == ceiling || way.search.usable() % SizeSearch::kStep == 0);
}

RC_GTEST_PROP(SizeSearch, FollowsAPathThatChangesWithoutAWord, ()) {
  const auto ceiling = *rc::gen::inRange<std::uint16_t>(1300, 9001);
  Way way(ceiling);
  way.search.run(way.now);
  way.run(5s);
  const auto narrow = *rc::gen::inRange<std::size_t>(1280, ceiling);
  way.carries = narrow;
  way.run(SizeSearch::kConfirm + 6s);
  RC_ASSERT(way.search.usable() == expected(ceiling, narrow));
  way.carries = 9000;
  way.run(SizeSearch::kRaise + SizeSearch::kConfirm + 2s);
  RC_ASSERT(way.search.usable() == ceiling);
}

TEST(SizeSearch, ASeldomLostPacketIsNoNarrowPath) {
  unsigned wrong = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Way way(1420, seed);
    way.loss_permille = 50;
    way.search.run(way.now);
    way.run(5s);
    wrong += way.search.usable() == 1420 ? 0 : 1;
  }
  EXPECT_LE(wrong, 2U);  // three in a row: 1 of 8000
}

TEST(SizeSearch, ASilentPathSaysNothingAboutSizesAndIsNotFloodedWithQuestions) {
  Way way(1420);
  way.died = way.now;
  way.dead = true;
  way.search.run(way.now);
  way.run(10min);
  EXPECT_EQ(way.search.usable(), 1420);
  EXPECT_LE(way.probes, 40U);
  way.dead = false;
  way.carries = 1300;
  way.run(2min);
  EXPECT_EQ(way.search.usable(), 1296);
}

TEST(SizeSearch, WhereEveryNetworkIsWideEnoughNothingIsAsked) {
  Way way(1280);
  way.search.run(way.now);
  EXPECT_FALSE(way.search.running());
  EXPECT_TRUE(way.search.proved());
}

TEST(SizeSearch, AnIdlePathIsNotAskedAgain) {
  Way way(1420);
  way.search.run(way.now);
  way.run(5s);
  const unsigned before = way.probes;
  way.run(1h, false);
  EXPECT_EQ(way.probes, before);
}

// --- in the agent

class Sizes : public PathBench {
 protected:
  Sizes() : PathBench(1420) {}
};

TEST_F(Sizes, TheSmallestOfThePathsInUseCountsAndTheGatewayIsTold) {
  links[kRelayed].carries = 1400;
  start();
  session_up();
  run(5s, 100);
  ASSERT_EQ(agent.primary(), kDirect);
  ASSERT_EQ(agent.standby(), kRelayed);
  for (const PathInfo& path : agent.show()) {
    EXPECT_TRUE(path.mtu_proved);
    EXPECT_EQ(path.mtu, path.path == kDirect ? 1420 : 1392);
  }
  EXPECT_EQ(probes.back().probe.inner_mtu, 1392);
}

TEST_F(Sizes, ANarrowPathIsNoLessAlive) {
  links[kDirect].carries = links[kRelayed].carries = 1290;
  start();
  session_up();
  const std::size_t changes_before = changes.size();
  run(10s, 100);
  EXPECT_EQ(count(AgentEvent::Kind::suspect), 0U);
  EXPECT_LE(changes.size(), changes_before + 1);  // to the direct path
  EXPECT_EQ(probes.back().probe.inner_mtu, 1280);
}

TEST_F(Sizes, APathThatBecomesNarrowWithoutAWordIsFoundOut) {
  start();
  session_up();
  for (const std::size_t carries : {9000U, 1400U, 1350U, 1290U}) {
    links[kDirect].carries = links[kRelayed].carries = carries;
    run(SizeSearch::kConfirm + 3s, 4);
    EXPECT_EQ(probes.back().probe.inner_mtu, expected(1420, carries));
  }
}

TEST_F(Sizes, AnotherNetworkIsAskedAnew) {
  start();
  session_up();
  run(5s, 100);
  EXPECT_EQ(probes.back().probe.inner_mtu, 1420);
  links[kDirect].carries = links[kRelayed].carries = 1350;
  const LocalBase bases[] = {{kSocket, 0, true}, {kSocket, 1, true}};
  agent.set_bases(bases, true, now());
  drain();
  run(3s, 100);
  EXPECT_EQ(probes.back().probe.inner_mtu, 1344);
}

}  // namespace
}  // namespace penstock::paths
