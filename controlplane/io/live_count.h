// How many gRPC calls of an owner are not over yet. gRPC's threads must be through with an owner's calls before the
// owner goes: a channel that dies on one of those threads would have to wait for that very thread. Any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace penstock::io {

class LiveCount {
 public:
  void enter() {
    const std::lock_guard lock{mutex_};
    ++count_;
  }
  void leave() {
    const std::lock_guard lock{mutex_};
    if (--count_ == 0) idle_.notify_all();
  }
  // Cancelled calls end at once; the limit is for a library that does not keep its word.
  void wait_idle() {
    std::unique_lock lock{mutex_};
    idle_.wait_for(lock, std::chrono::seconds{5}, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  int count_ = 0;
};

}  // namespace penstock::io
