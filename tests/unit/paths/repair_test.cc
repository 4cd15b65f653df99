// PathAgent: with a gateway that reports what has arrived, what it misses is sent again and nothing else.
#include "tests/unit/paths/path_bench.h"

namespace penstock::paths {
namespace {

class Repair : public PathBench {
 protected:
  // Over the direct path, with the relay warm, 1000 packets a second.
  void begin() {
    start();
    session_up();
    run(5s, 1000);
    ASSERT_EQ(agent.primary(), kDirect);
    ASSERT_EQ(lost_since(0), 0u);
  }
  // Nothing is sent again any more.
  void expect_rest(Duration how_long, unsigned rate) {
    const std::size_t before = resent;
    run(how_long, rate);
    EXPECT_EQ(resent, before);
  }
};

class RepairOrNot : public Repair, public ::testing::WithParamInterface<bool> {};

TEST_P(RepairOrNot, OnlyWhatTheGatewayMissesIsSentAgain) {
  reports = GetParam();
  begin();
  const std::size_t before = resent, copies_before = copies, sent_before = sent;
  links[kDirect].sends = false;
  run(30ms, 1000);
  agent.verify(now());  // the STUN tick, say
  drain();
  run(1s, 1000);
  EXPECT_EQ(agent.primary(), kRelayed);
  EXPECT_EQ(lost_since(0), 0u);
  // Once when it is suspected, before anybody can say what has arrived.
  const std::size_t extra = resent - before + (copies - copies_before) - (sent - sent_before);
  RecordProperty("extra", static_cast<int>(extra));
  if (reports)
    EXPECT_LE(extra, 115u);
  else
    EXPECT_GT(extra, 115u) << "the report makes no difference: this tests nothing";
}

INSTANTIATE_TEST_SUITE_P(Reports, RepairOrNot, ::testing::Bool());

// A relay's queue runs over as everybody sends again: whichever copies are lost, in the end all is there.
TEST_F(Repair, CopiesThatAreLostAreSentOnceMore) {
  reports = true;
  begin();
  links[kDirect].up = false;
  unsigned seen = 0;
  loses = [&](std::uint32_t) { return ++seen % 4 == 0; };
  run(500ms, 1000);
  EXPECT_EQ(agent.primary(), kRelayed);
  EXPECT_GT(lost_since(0), 0u) << "nothing to repair: this tests nothing";
  loses = nullptr;
  run(500ms, 1000);
  run(100ms);
  EXPECT_EQ(lost_since(0), 0u);
  expect_rest(3s, 1000);
}

// What is too long for the way is not sent for ever.
TEST_F(Repair, WhatNeverArrivesIsGivenUp) {
  reports = true;
  begin();
  const std::uint32_t first = sent;
  loses = [&](std::uint32_t number) { return number >= first && number < first + 10; };
  links[kDirect].up = false;
  run(4s, 100);
  EXPECT_EQ(lost_since(0), 10u);
  expect_rest(4s, 100);
}

// Long after the trouble nothing is asked for and nothing is reported; what is lost then is the application's affair.
TEST_F(Repair, EndsTwoSecondsAfterTheTrouble) {
  reports = true;
  begin();
  EXPECT_FALSE(probes.back().probe.report);
  links[kDirect].up = false;
  run(1s, 1000);
  EXPECT_TRUE(probes.back().probe.report);
  run(2500ms, 1000);
  EXPECT_FALSE(probes.back().probe.report);
  const std::uint32_t first = sent;
  loses = [&](std::uint32_t number) { return number == first; };
  run(1s, 1000);
  EXPECT_EQ(lost_since(0), 1u);
}

// An older gateway answers without: its answers prove what they always did.
TEST_F(Repair, AnOlderGatewaysAnswersProveThePathAsBefore) {
  begin();
  links[kDirect].up = false;
  run(3s, 1000);
  EXPECT_EQ(agent.primary(), kRelayed);
  EXPECT_EQ(lost_since(0), 0u);
  const std::size_t before = resent;
  links[kRelayed].sends = false;
  run(40ms, 1000);
  links[kRelayed].sends = true;
  agent.verify(now());
  drain();
  run(1s, 1000);
  EXPECT_EQ(lost_since(0), 0u);
  EXPECT_LE(resent - before, 200u) << "no more than what no answer has proved";
}

}  // namespace
}  // namespace penstock::paths
