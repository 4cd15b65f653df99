// The replay window against a naive model, and under several threads.
#include "dataplane/core/wireguard/replay.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace penstock::wireguard {
namespace {

// Remembers everything; too old is what lies 256 blocks of 32 behind the newest block.
class Model {
 public:
  bool would_accept(std::uint64_t counter) const {
    return counter / ReplayWindow::kBlock + ReplayWindow::kBlocks > newest_ / ReplayWindow::kBlock &&
           !seen_.contains(counter);
  }
  bool accept(std::uint64_t counter) {
    if (!would_accept(counter)) return false;
    seen_.insert(counter);
    newest_ = std::max(newest_, counter);
    return true;
  }

 private:
  std::set<std::uint64_t> seen_;
  std::uint64_t newest_ = 0;
};

// Walks around a moving head: repeats, small steps back, steps near the window's edge, jumps.
std::vector<std::uint64_t> walk(std::uint64_t start, const std::vector<std::pair<int, std::uint32_t>>& steps) {
  std::vector<std::uint64_t> counters;
  std::uint64_t head = start;
  for (const auto& [kind, amount] : steps) {
    std::uint64_t counter = head;
    switch (kind % 6) {
      case 0:
        counter = head + 1;
        break;
      case 1:
        counter = head + amount % 100;
        break;
      case 2:
        counter = head - std::min<std::uint64_t>(head, amount % 64);
        break;
      case 3:
        counter = head - std::min<std::uint64_t>(head, 8100 + amount % 200);
        break;
      case 4:
        counter = head + amount % 20000;
        break;
      default:
        counter = counters.empty() ? head : counters[amount % counters.size()];
        break;
    }
    head = std::max(head, counter);
    counters.push_back(counter);
  }
  return counters;
}

RC_GTEST_PROP(ReplayWindow, BehavesLikeTheModel,
              (std::uint32_t start, std::vector<std::pair<int, std::uint32_t>> raw)) {
  auto steps = raw;
  for (auto& [kind, amount] : steps) kind &= 0xffff;
  const auto window = std::make_unique<ReplayWindow>();
  Model model;
  for (const std::uint64_t counter : walk(start, steps)) {
    RC_ASSERT(window->would_accept(counter) == model.would_accept(counter));
    RC_ASSERT(window->accept(counter) == model.accept(counter));
  }
}

RC_GTEST_PROP(ReplayWindow, BurstsAreTheSameAsSingles, (std::vector<std::pair<int, std::uint32_t>> raw)) {
  auto steps = raw;
  for (auto& [kind, amount] : steps) kind &= 0xffff;
  const auto counters = walk(100000, steps);
  const auto single = std::make_unique<ReplayWindow>(), burst = std::make_unique<ReplayWindow>();
  for (std::size_t i = 0; i < counters.size(); i += 64) {
    const auto n = static_cast<unsigned>(std::min<std::size_t>(64, counters.size() - i));
    const std::uint64_t accepted = burst->accept_burst(counters.data() + i, n);
    for (unsigned k = 0; k < n; ++k) RC_ASSERT(((accepted >> k) & 1) == (single->accept(counters[i + k]) ? 1U : 0U));
  }
}

TEST(ReplayWindow, LongRunsInOrder) {
  const auto window = std::make_unique<ReplayWindow>();
  for (std::uint64_t counter = 0; counter < 100000; ++counter) {
    ASSERT_TRUE(window->accept(counter));
    ASSERT_FALSE(window->accept(counter));
  }
  EXPECT_FALSE(window->accept(100000 - 8192 - 1));
}

TEST(ReplayWindow, ReachesBackThePromisedDistance) {
  for (std::uint64_t newest = 20000; newest < 20100; ++newest) {
    const auto window = std::make_unique<ReplayWindow>();
    ASSERT_TRUE(window->accept(newest));
    EXPECT_TRUE(window->would_accept(newest - 8160));
    EXPECT_FALSE(window->would_accept(newest - 8192));
  }
}

TEST(ReplayWindow, HugeJumps) {
  const auto window = std::make_unique<ReplayWindow>();
  for (const std::uint64_t counter :
       {std::uint64_t{0}, std::uint64_t{1} << 20, std::uint64_t{1} << 37, std::uint64_t{3} << 37,
        std::uint64_t{1} << 60, (std::uint64_t{1} << 60) + 1, ~std::uint64_t{0} - 9000}) {
    EXPECT_TRUE(window->accept(counter)) << counter;
    EXPECT_FALSE(window->accept(counter)) << counter;
  }
  EXPECT_FALSE(window->accept(0));
  EXPECT_FALSE(window->accept(std::uint64_t{1} << 60));
}

TEST(ReplayWindow, ThreadsNeverAcceptTwice) {
  constexpr std::uint64_t kCounters = 200000;
  constexpr int kThreads = 4;
  const auto window = std::make_unique<ReplayWindow>();
  std::vector<std::atomic<std::uint8_t>> accepted(kCounters);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      // Every counter is offered by every thread, in slightly different orders.
      for (std::uint64_t i = 0; i < kCounters; ++i) {
        const std::uint64_t counter = (i / 64) * 64 + ((i % 64) ^ static_cast<std::uint64_t>(t * 13 % 64));
        if (counter < kCounters && window->accept(counter)) accepted[counter].fetch_add(1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (std::uint64_t counter = 0; counter < kCounters; ++counter) ASSERT_LE(accepted[counter].load(), 1) << counter;
}

}  // namespace
}  // namespace penstock::wireguard
