// The event loop: timers fire once and not early, posted work runs in order on the loop's thread, a source may be
// destroyed from inside its own callback.
#include "controlplane/io/loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

namespace penstock::io {
namespace {

using namespace std::chrono_literals;

// Turns until `done` or two seconds have passed.
template <typename Predicate>
bool run_until(Loop& loop, Predicate done) {
  const Instant deadline = Loop::now().monotonic + 2s;
  while (!done()) {
    if (Loop::now().monotonic > deadline) return false;
    loop.run_once(10ms);
  }
  return true;
}

TEST(Loop, TimerFiresOnceAndNotBeforeItsTime) {
  Loop loop;
  int fired = 0;
  Instant at{};
  auto timer = loop.add_timer([&] {
    ++fired;
    at = Loop::now().monotonic;
  });
  const Instant due = Loop::now().monotonic + 5ms;
  timer.set(due);
  ASSERT_TRUE(run_until(loop, [&] { return fired > 0; }));
  EXPECT_GE(at, due);
  while (loop.run_once(0ns)) {
  }
  EXPECT_EQ(fired, 1);  // trap: paths-21
}

TEST(Loop, TimerInThePastFiresAndNeverDisarms) {
  Loop loop;
  int fired = 0;
  auto timer = loop.add_timer([&] { ++fired; });
  timer.set(Instant{});
  ASSERT_TRUE(run_until(loop, [&] { return fired == 1; }));
  timer.set(Loop::now().monotonic + 1ms);
  timer.set(kNever);
  const Instant later = Loop::now().monotonic + 5ms;
  while (Loop::now().monotonic < later) loop.run_once(1ms);
  EXPECT_EQ(fired, 1);
}

TEST(Loop, PostedWorkRunsInOrderOnTheLoopsThread) {
  Loop loop;
  std::vector<int> order;
  const auto self = std::this_thread::get_id();
  bool same = true;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      loop.post([&, i] {
        order.push_back(i);
        same = same && std::this_thread::get_id() == self;
      });
    }
    loop.stop(7);
  });
  EXPECT_EQ(loop.run(), 7);
  other.join();
  ASSERT_EQ(order.size(), 1000U);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  EXPECT_TRUE(same);
}

TEST(Loop, ASourceMayDestroyItselfInItsCallback) {
  Loop loop;
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC | O_NONBLOCK), 0);
  int calls = 0;
  Loop::Source source;
  source = loop.add_fd(pipe[0], EPOLLIN, [&](std::uint32_t events) {
    EXPECT_NE(events & EPOLLIN, 0U);
    ++calls;
    source.reset();
  });
  ASSERT_EQ(::write(pipe[1], "x", 1), 1);
  ASSERT_TRUE(run_until(loop, [&] { return calls == 1; }));
  loop.run_once(1ms);
  EXPECT_EQ(calls, 1);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(Loop, SignalsArriveOnTheLoop) {
  Loop loop;
  auto source = loop.add_signal(SIGUSR2, [&] { loop.stop(3); });
  ::kill(::getpid(), SIGUSR2);
  EXPECT_EQ(loop.run(), 3);
}

TEST(Loop, TheEndOfATurnIsSeenOncePerTurn) {
  Loop loop;
  int turns = 0;
  int work = 0;
  auto source = loop.add_after_turn([&] { ++turns; });
  loop.post([&] { ++work; });
  loop.post([&] { ++work; });
  ASSERT_TRUE(run_until(loop, [&] { return turns > 0; }));
  EXPECT_EQ(work, 2);
  EXPECT_EQ(turns, 1);
}

}  // namespace
}  // namespace penstock::io
