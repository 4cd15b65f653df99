#include "dataplane/runtime/rcu.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace penstock::runtime::rcu {
namespace {

struct Snapshot {
  int first = 0;
  int second = 0;
};

// Readers follow the pointer while a writer replaces and frees: never a mix, never freed memory (ASan, TSan).
TEST(Rcu, ReadersNeverSeeAFreedOrHalfMadeSnapshot) {
  std::atomic<const Snapshot*> current{new Snapshot{0, 0}};
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0};
  Reclaimer reclaimer;
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i)
    readers.emplace_back([&] {
      const ThreadRegistration registration;
      while (!stop.load(std::memory_order_relaxed)) {
        const Snapshot* snapshot = current.load(std::memory_order_acquire);
        if (snapshot->first != snapshot->second) torn.fetch_add(1);
        quiescent();
      }
    });
  std::size_t freed = 0;
  for (int i = 1; i <= 200; ++i) {
    const Snapshot* old = current.exchange(new Snapshot{i, i}, std::memory_order_acq_rel);
    reclaimer.retire([old] { delete old; });
    if (i % 10 == 0) freed += reclaimer.collect();
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(torn.load(), 0);
  EXPECT_EQ(freed, 200u);
  EXPECT_EQ(reclaimer.waiting(), 0u);
  delete current.load();
}

// A sleeping thread that went offline holds nobody up.
TEST(Rcu, AnOfflineThreadDoesNotDelayAGracePeriod) {
  std::atomic<bool> offline{false};
  std::atomic<bool> wake{false};
  std::thread sleeper([&] {
    const ThreadRegistration registration;
    {
      const Offline rest;
      offline = true;
      while (!wake) std::this_thread::yield();
    }
    quiescent();
  });
  while (!offline) std::this_thread::yield();
  synchronize();
  wake = true;
  sleeper.join();
}

TEST(Rcu, WhatIsLeftIsFreedWithTheReclaimer) {
  int freed = 0;
  {
    Reclaimer reclaimer;
    reclaimer.retire([&] { ++freed; });
    reclaimer.retire(std::make_unique<Snapshot>());
    EXPECT_EQ(reclaimer.waiting(), 2u);
  }
  EXPECT_EQ(freed, 1);
}

TEST(Rcu, CollectWithoutWorkDoesNothing) {
  Reclaimer reclaimer;
  EXPECT_EQ(reclaimer.collect(), 0u);
}

}  // namespace
}  // namespace penstock::runtime::rcu
