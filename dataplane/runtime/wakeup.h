// Waking a thread that sleeps on descriptors, at no cost in system calls while it is awake.
//
// The sleeper: prepare(), look at all its inputs once more, wait() unless one has something, finish().
// The others: put the input where it belongs, then notify(). Because both sides exchange the same flag, either the
// sleeper sees the input or the notifier sees that it sleeps.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "dataplane/core/base/time.h"

namespace penstock::runtime {

class Wakeup {
 public:
  Wakeup();
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  // Any thread.
  void notify() {
    if (sleeping_.exchange(false, std::memory_order_acq_rel)) signal();
  }

  // The sleeper.
  void prepare() { sleeping_.exchange(true, std::memory_order_acq_rel); }
  // Sleeps until notified, one of `others` is readable (their `events` set, `revents` filled), or `at_most` has passed. One
  // that only reports an error wakes once, is rid of it where it is a socket (an interface that went down), and left out
  // for kErrorPause: errors that stay must not keep a core busy (trap: paths-21).
  void wait(std::span<pollfd> others, Duration at_most);
  void finish() { sleeping_.store(false, std::memory_order_relaxed); }

  static constexpr std::size_t kMaxOthers = 32;
  static constexpr Duration kErrorPause = std::chrono::milliseconds(10);

 private:
  void signal();
  int descriptor_;
  std::atomic<bool> sleeping_{false};
  std::uint32_t failing_ = 0;  // the sleeper's: bit i: others[i] reported an error last time
};

}  // namespace penstock::runtime
