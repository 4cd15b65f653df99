#include "dataplane/runtime/ring.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <deque>
#include <thread>
#include <vector>

namespace penstock::runtime {
namespace {

// Any sequence of pushes and pops behaves as a bounded queue.
template <typename Ring>
void behaves_as_queue() {
  Ring ring(8);
  std::deque<std::uint64_t> model;
  std::uint64_t next = 1;
  const auto steps = *rc::gen::container<std::vector<std::pair<bool, std::uint8_t>>>(
      rc::gen::arbitrary<std::pair<bool, std::uint8_t>>());
  for (const auto& [push, amount] : steps) {
    const std::size_t n = amount % 12;
    if (push) {
      std::vector<std::uint64_t> items(n);
      for (auto& item : items) item = next++;
      const std::size_t taken = ring.push(std::span<const std::uint64_t>(items));
      RC_ASSERT(taken == std::min(n, std::size_t{8} - model.size()));
      model.insert(model.end(), items.begin(), items.begin() + static_cast<std::ptrdiff_t>(taken));
    } else {
      std::vector<std::uint64_t> items(n);
      const std::size_t taken = ring.pop(std::span<std::uint64_t>(items));
      RC_ASSERT(taken == std::min(n, model.size()));
      for (std::size_t i = 0; i < taken; ++i) {
        RC_ASSERT(items[i] == model.front());
        model.pop_front();
      }
    }
    RC_ASSERT(ring.empty() == model.empty());
  }
}

RC_GTEST_PROP(Ring, SpscBehavesAsABoundedQueue, ()) {
  behaves_as_queue<SpscRing<std::uint64_t>>();
}
RC_GTEST_PROP(Ring, MpscBehavesAsABoundedQueue, ()) {
  behaves_as_queue<MpscRing<std::uint64_t>>();
}

TEST(Ring, CapacityIsRoundedUp) {
  EXPECT_EQ(SpscRing<int>(5).capacity(), 8u);
  EXPECT_EQ(MpscRing<int>(0).capacity(), 2u);
}

// trap: io-1, io-2 — nothing is lost, repeated or reordered between threads.
TEST(Ring, SpscKeepsOrderBetweenTwoThreads) {
  constexpr std::uint64_t kCount = 200'000;
  SpscRing<std::uint64_t> ring(64);
  std::thread producer([&] {
    std::uint64_t burst[7];
    for (std::uint64_t next = 1; next <= kCount;) {
      std::size_t n = 0;
      while (n < 7 && next + n <= kCount) burst[n] = next + n, ++n;
      next += ring.push(std::span<const std::uint64_t>(burst, n));
      if (n > 0) std::this_thread::yield();
    }
  });
  std::uint64_t expected = 1;
  std::uint64_t burst[5];
  while (expected <= kCount) {
    const std::size_t n = ring.pop(std::span<std::uint64_t>(burst));
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(burst[i], expected++);
    if (n == 0) std::this_thread::yield();
  }
  producer.join();
  EXPECT_TRUE(ring.empty());
}

TEST(Ring, MpscKeepsTheOrderOfEachProducer) {
  constexpr std::uint64_t kCount = 50'000;
  constexpr std::uint64_t kProducers = 2;
  MpscRing<std::uint64_t> ring(64);
  std::vector<std::thread> producers;
  for (std::uint64_t p = 0; p < kProducers; ++p)
    producers.emplace_back([&, p] {
      for (std::uint64_t i = 1; i <= kCount;) {
        if (ring.push(p << 32 | i)) {
          ++i;
        } else {
          std::this_thread::yield();
        }
      }
    });
  std::uint64_t seen[kProducers] = {};
  std::uint64_t burst[16];
  for (std::uint64_t total = 0; total < kCount * kProducers;) {
    const std::size_t n = ring.pop(std::span<std::uint64_t>(burst));
    for (std::size_t i = 0; i < n; ++i) {
      auto& last = seen[burst[i] >> 32];
      ASSERT_EQ(burst[i] & 0xffffffff, last + 1);
      ++last;
    }
    total += n;
    if (n == 0) std::this_thread::yield();
  }
  for (auto& producer : producers) producer.join();
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace penstock::runtime
