// A bounded queue from the threads that keep tunnels alive to whoever listens (gRPC): never blocks the producer, counts
// what it had to throw away. Any thread may call anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace penstock::runtime {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

  // False: full or nobody listens; the item is gone and, when full, counted.
  bool push(T item) {
    const std::lock_guard lock(mutex_);
    if (!listener_) return false;
    if (items_.size() >= capacity_) {
      ++lost_;
      return false;
    }
    items_.push_back(std::move(item));
    if (items_.size() == 1) listener_();
    return true;
  }

  // What has arrived, oldest first, and how many were lost since the last call.
  struct Drained {
    std::vector<T> items;
    std::uint64_t lost = 0;
  };
  Drained drain() {
    const std::lock_guard lock(mutex_);
    Drained out;
    out.items.assign(std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end()));
    items_.clear();
    out.lost = std::exchange(lost_, 0);
    return out;
  }

  // `listener` is called from the producer's thread, under the queue's lock, when the queue stops being empty: it must
  // only wake somebody up. An empty function: nobody listens any more, and what is queued is forgotten. After this
  // returns the old listener is not called again.
  void listen(std::function<void()> listener) {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
    if (!listener_) items_.clear();
    lost_ = 0;
  }

 private:
  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::deque<T> items_;
  std::function<void()> listener_;
  std::uint64_t lost_ = 0;
};

}  // namespace penstock::runtime
