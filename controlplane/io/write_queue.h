// What waits to be written to a gRPC stream, which takes one message at a time. The next write starts on that thread of
// gRPC's which says that the last is done: a loop in between would be woken for every message. Any thread.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace penstock::io {

template <typename Message>
class WriteQueue {
 public:
  // `start` is the stream's StartWrite; called under the queue's lock. The message stays where it is until written().
  WriteQueue(std::size_t capacity, std::function<void(const Message&)> start)
      : capacity_(capacity), start_(std::move(start)) {}

  // False: `capacity` messages wait, or the queue is closed. After a failed write they are taken and lost: the stream is
  // over, and says so itself.
  bool send(Message message) {
    const std::lock_guard lock{mutex_};
    if (closed_ || queue_.size() >= capacity_) return false;
    if (failed_) return true;
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) start_(queue_.front());
    return true;
  }
  // From OnWriteDone.
  void written(bool ok) {
    const std::lock_guard lock{mutex_};
    failed_ = !ok;
    if (failed_ || closed_) return;
    queue_.pop_front();
    if (!queue_.empty()) start_(queue_.front());
  }
  // No write starts any more once this has returned.
  void close() {
    const std::lock_guard lock{mutex_};
    closed_ = true;
  }
  [[nodiscard]] bool idle() const {
    const std::lock_guard lock{mutex_};
    return closed_ || failed_ || queue_.empty();
  }

 private:
  const std::size_t capacity_;
  const std::function<void(const Message&)> start_;
  mutable std::mutex mutex_;
  std::deque<Message> queue_;  // the front is being written
  bool closed_ = false;
  bool failed_ = false;
};

}  // namespace penstock::io
