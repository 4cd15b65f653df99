// How threads that are not the loop's (gRPC's, a resolver's) hand work to a loop that may be gone before they are: work
// posted after close() is dropped, and so is work that was posted before but has not run. Shared (make_shared) by
// everything that can outlive its owner. Any thread; close() on the loop's.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "controlplane/io/loop.h"

namespace penstock::io {

class PostGate : public std::enable_shared_from_this<PostGate> {
 public:
  explicit PostGate(Loop& loop) : loop_(&loop) {}

  void post(std::function<void()> work) {
    const std::lock_guard lock{mutex_};
    if (loop_ == nullptr) return;
    loop_->post([self = shared_from_this(), work = std::move(work)] {
      if (self->loop_ != nullptr) work();  // only the loop's thread writes it
    });
  }
  void close() {
    const std::lock_guard lock{mutex_};
    loop_ = nullptr;
  }
  // For work that was posted before close() and runs after it.
  [[nodiscard]] bool closed() const {
    const std::lock_guard lock{mutex_};
    return loop_ == nullptr;
  }

 private:
  mutable std::mutex mutex_;
  Loop* loop_;
};

}  // namespace penstock::io
