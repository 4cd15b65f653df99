// A burst that several workers work on is done once, wholly, and before its owner goes on.
#include "dataplane/runtime/aead_share.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

namespace penstock::runtime {
namespace {

using wireguard::AeadJob;

// Counts in the job's counter how often it was done.
class CountingAead final : public wireguard::AeadContext {
 public:
  void seal(std::span<AeadJob> jobs) override { touch(jobs, 1); }
  void open(std::span<AeadJob> jobs) override { touch(jobs, 1000); }
  [[nodiscard]] std::string_view name() const override { return "counting"; }
  std::uint64_t done = 0;

 private:
  void touch(std::span<AeadJob> jobs, std::uint64_t by) {
    for (AeadJob& job : jobs) {
      job.counter += by;
      job.ok = true;
      ++done;
    }
  }
};

// Worker 0, while worker 1 has nothing else to do.
class Helped {
 public:
  Helped() { share_.set_idle(true); }
  // What both have done, once the helper has stopped.
  std::uint64_t done() {
    stop_ = true;
    thread_.join();
    return own_.done + helper_.done;
  }
  ~Helped() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  AeadShare share_{2};
  CountingAead own_, helper_;
  std::atomic<bool> stop_{false};

 public:
  SharedAead shared{own_, share_, 0};

 private:
  std::thread thread_{[this] {
    while (!stop_.load()) share_.help(1, helper_);
  }};
};

TEST(AeadShare, EveryJobIsDoneOnceWhoeverHelps) {
  Helped helped;
  SharedAead& shared = helped.shared;
  std::uint64_t expected = 0;
  for (unsigned round = 0; round < 20000; ++round) {
    std::array<AeadJob, 64> jobs{};
    const std::size_t count = 1 + round % jobs.size();
    const bool seal = round % 2 == 0;
    const std::span<AeadJob> burst(jobs.data(), count);
    if (seal) {
      shared.seal(burst);
    } else {
      shared.open(burst);
    }
    expected += count;
    for (const AeadJob& job : burst) {
      ASSERT_EQ(job.counter, seal ? 1U : 1000U) << "in round " << round;
      ASSERT_TRUE(job.ok);
    }
  }
  EXPECT_EQ(helped.done(), expected);
}

// Several to open and to seal, each begun before those before are waited for, and one at once now and then.
TEST(AeadShare, SeveralBurstsAreUnderWayAtOnce) {
  Helped helped;
  SharedAead& shared = helped.shared;
  std::array<std::array<AeadJob, 64>, SharedAead::kSlots> jobs;
  std::array<std::size_t, SharedAead::kSlots> counts{};
  std::uint64_t expected = 0;
  for (unsigned round = 0; round < 30000; ++round) {
    const unsigned slot = round % SharedAead::kSlots;
    const bool seal = slot < 2;
    shared.wait(slot);
    for (std::size_t i = 0; i < counts[slot]; ++i)
      ASSERT_EQ(jobs[slot][i].counter, seal ? 1U : 1000U) << "in round " << round;
    counts[slot] = round * 7 % 65;
    jobs[slot].fill({});
    shared.begin(slot, {jobs[slot].data(), counts[slot]}, seal);
    expected += counts[slot];
    if (round % 5 != 0) continue;
    std::array<AeadJob, 40> at_once{};
    shared.seal(at_once);
    expected += at_once.size();
    for (const AeadJob& job : at_once) ASSERT_EQ(job.counter, 1U);
  }
  for (unsigned slot = 0; slot < SharedAead::kSlots; ++slot) shared.wait(slot);
  EXPECT_EQ(helped.done(), expected);
}

TEST(AeadShare, NothingIsOfferedWhenNobodyIdles) {
  AeadShare share(2);
  CountingAead own, helper;
  SharedAead shared(own, share, 0);
  std::array<AeadJob, 64> jobs{};
  shared.seal(jobs);
  EXPECT_EQ(own.done, 64U);
  EXPECT_FALSE(share.help(1, helper));
  EXPECT_EQ(helper.done, 0U);
}

}  // namespace
}  // namespace penstock::runtime
