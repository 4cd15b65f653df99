#include "controlplane/core/paths/path_agent.h"

#include <gtest/gtest.h>

#include "tests/unit/paths/path_bench.h"

namespace penstock::paths {
namespace {

// ---- failure ----

TEST_F(PathBench, NoPacketIsLostWhenThePrimaryFails) {
  for (const unsigned rate : {10u, 100u, 1000u}) {
    for (const Duration rtt : {2ms, 20ms, 60ms}) {
      for (int phase = 0; phase < 5; ++phase) {
        links[kRelayed] = links[kDirect] = {.rtt = rtt};
        agent.handle_session_down(now());
        start();
        session_up(kRelayed);
        run(70s + phase * 23ms, rate);
        ASSERT_EQ(agent.primary(), kDirect);
        const std::uint32_t first = sent;
        links[kDirect].up = false;
        const Instant failed = time;
        run(2s, rate);
        EXPECT_EQ(agent.primary(), kRelayed);
        EXPECT_EQ(lost_since(first), 0u) << rate << "/s, rtt " << rtt / 1ms << " ms";
        EXPECT_LE(changes.back().first - failed, 300ms + 4 * rtt);
      }
    }
  }
}

// More probes are on their way than an answer takes to come (satellites, queues on the way): those that were sent since
// must not make the first unanswered one forgotten.
TEST_F(PathBench, AFarGatewayIsMissedAsWell) {
  for (const Duration rtt : {100ms, 330ms, 500ms, 900ms, 1500ms, 3000ms}) {
    links[kRelayed] = links[kOtherRelay] = {.rtt = rtt};
    agent.handle_session_down(now());
    start({{kSocket, 1, true}, {kSocket, 2, true}});
    session_up(kRelayed);
    run(10s, 50);  // until it has been measured
    events.clear();
    run(90s, 50);
    ASSERT_EQ(count(AgentEvent::Kind::suspect), 0u) << rtt / 1ms << " ms";
    const Path used = *agent.primary();
    ASSERT_LE(agent.show().at(0).loss_permille, 10u) << rtt / 1ms << " ms";
    links[used].up = false;
    run(4 * rtt + 400ms, 50);
    EXPECT_NE(agent.primary(), used) << rtt / 1ms << " ms";
    run(10s, 50);
    const std::uint32_t later = sent;
    run(10s, 50);
    EXPECT_EQ(lost_since(later), 0u) << rtt / 1ms << " ms";
  }
}

TEST_F(PathBench, ResentPacketsComeOldestFirstAndBeforeNewerOnes) {
  start();
  session_up(kRelayed);
  run(70s, 200);
  order.clear();
  links[kDirect].up = false;
  run(1s, 200);
  std::vector<std::uint32_t> firsts;
  std::set<std::uint32_t> seen;
  for (const std::uint32_t number : order)
    if (seen.insert(number).second) firsts.push_back(number);
  EXPECT_TRUE(std::is_sorted(firsts.begin(), firsts.end()));
}

// Above the bound there is fast fail-over but no flood of copies.
TEST_F(PathBench, CopiesAreBounded) {
  start();
  session_up(kRelayed);
  run(5s, 10000, 1200);
  links[kDirect].up = false;
  const std::size_t copies_before = copies;
  const std::uint32_t sent_before = sent;
  run(1s, 10000, 1200);
  const std::size_t extra = copies - copies_before - (sent - sent_before) + resent;
  EXPECT_LE(extra * 1200, 2u * 250'000);
  EXPECT_EQ(agent.primary(), kRelayed);
}

TEST_F(PathBench, NothingIsSentTwiceWithoutSuspicion) {
  start();
  session_up(kRelayed);
  run(60s, 500);
  EXPECT_EQ(copies, sent);
  EXPECT_EQ(resent, 0u);
}

TEST_F(PathBench, ReturnsToTheBetterPathWhenItIsStable) {
  start();
  session_up(kRelayed);
  run(10s, 100);
  links[kDirect].up = false;
  run(1s, 100);
  ASSERT_EQ(agent.primary(), kRelayed);
  links[kDirect].up = true;
  run(1s, 100);
  EXPECT_EQ(agent.primary(), kRelayed) << "not before it has proved stable";
  run(60s, 100);
  EXPECT_EQ(agent.primary(), kDirect);
}

TEST_F(PathBench, FlappingDirectPathIsLeftAloneForLonger) {
  start();
  session_up(kRelayed);
  run(5s, 50);
  for (int i = 0; i < 30; ++i) {
    links[kDirect].up = false;
    run(2s, 50);
    links[kDirect].up = true;
    run(8s, 50);
  }
  EXPECT_LE(changes.size(), 22u);
  EXPECT_EQ(delivered.size(), sent);
}

// A probe may be late under load while data flows: that is no failure.
TEST_F(PathBench, LateProbesAmongOtherTrafficAreNotTakenForLoss) {
  start();
  session_up(kRelayed);
  run(5s, 100);
  ASSERT_EQ(agent.primary(), kDirect);
  links[kDirect].rtt = 450ms;  // a full queue; the first answers come late
  for (int i = 0; i < 100; ++i) {
    agent.note_received(kDirect, true, now());
    run(10ms, 100);
  }
  EXPECT_EQ(count(AgentEvent::Kind::suspect), 0u);
}

// The gateway's keepalive reaches us although our probes do not reach it (its NAT has just been opened): no waiting for
// the next probe.
TEST_F(PathBench, WhatArrivesOnASuspectPathIsFollowedUpAtOnce) {
  start({{kSocket, 0, true}});
  session_up(kDirect);
  run(3s, 50);
  links[kDirect].up = false;
  run(320ms, 50);
  ASSERT_TRUE(agent.suspect());
  links[kDirect].up = true;
  run(3ms);
  const std::size_t before = probes_on(kDirect);
  time += 30ms - 3ms;
  agent.note_received(kDirect, false, now());
  agent.handle_timeout(now());
  drain();
  EXPECT_EQ(probes_on(kDirect), before + 1);
  // Many packets do not make many probes.
  for (int i = 0; i < 100; ++i) {
    agent.note_received(kDirect, true, now());
    if (agent.poll_timeout().at <= time) agent.handle_timeout(now());
  }
  drain();
  EXPECT_EQ(probes_on(kDirect), before + 1);
  run(1s, 50);
  EXPECT_FALSE(agent.suspect());
}

// Its NAT has forgotten: what it sends comes from another port. That is sooner than any answer is late.
TEST_F(PathBench, AGatewayThatSpeaksFromAnotherPortHasLostItsMappings) {
  start();
  session_up();
  run(2s, 50);
  ASSERT_EQ(agent.primary(), kDirect);
  ASSERT_EQ(agent.standby(), kRelayed);
  const Path renumbered{kSocket, endpoint("203.0.113.7:60001"), 1};
  links[kDirect].up = links[kRelayed].up = false;
  const Instant forgot = time;
  run(30ms, 50);
  agent.note_received(renumbered, false, now());
  drain();
  EXPECT_TRUE(agent.suspect());
  run(100ms, 50);
  EXPECT_EQ(agent.primary(), renumbered);
  EXPECT_LE(changes.back().first - forgot, 100ms);
  // A gateway that is known by several ports from the start is no news.
  run(2s, 50);
  EXPECT_FALSE(agent.suspect());
  const std::size_t before = count(AgentEvent::Kind::suspect);
  agent.note_received(renumbered, true, now());
  drain();
  EXPECT_EQ(count(AgentEvent::Kind::suspect), before);
}

// The forgetful NAT has ended the old ways over the relay too, though their last answers were fine: none of them is
// "better" than the one that works, and nothing is lost on the way.
TEST_F(PathBench, AnswersFromBeforeTheDoubtMakeNoPathBetter) {
  start();
  links[kRelayed].rtt = 20ms;
  session_up();
  run(15s, 1000);
  ASSERT_EQ(agent.primary(), kDirect);
  const std::uint32_t first = sent;
  const std::size_t known = changes.size();
  const Path renumbered{kSocket, endpoint("203.0.113.7:60001"), 1};
  links[renumbered].rtt = 45ms;  // a slow first answer: the old way looks much better
  links[kDirect].up = links[kRelayed].up = false;
  run(30ms, 1000);
  agent.note_received(renumbered, false, now());
  drain();
  run(3s, 1000);
  EXPECT_EQ(agent.primary(), renumbered);
  EXPECT_EQ(changes.size(), known + 1) << changes[known + 1].second.to_string();
  EXPECT_EQ(lost_since(first), 0u);
}

// Why the path in use was changed is remembered for whoever asks.
TEST_F(PathBench, TellsWhyThePathInUseWasChanged) {
  start();
  session_up();
  ASSERT_TRUE(agent.last_switch());
  EXPECT_EQ(agent.last_switch()->why, "the handshake was answered over it");
  run(1s, 50);
  EXPECT_EQ(agent.last_switch()->to, kDirect);
  EXPECT_EQ(agent.last_switch()->why, "it is direct");
  links[kDirect].up = false;
  run(1s, 50);
  EXPECT_EQ(agent.last_switch()->to, kRelayed);
  EXPECT_EQ(agent.last_switch()->why, "the former did not answer");
  EXPECT_LE(time - agent.last_switch()->at, 1s);
}

}  // namespace
}  // namespace penstock::paths
