// One server-to-client stream of messages over gRPC's callback API, which any thread may feed.
//
// Lives as long as gRPC needs it or somebody holds a pointer. offer() never blocks: a client that reads too slowly
// fills the bounded queue, and the caller is told.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace penstock::rpc {

template <typename Message>
class WriteStream final : public grpc::ServerWriteReactor<Message> {
 public:
  static std::shared_ptr<WriteStream> create(std::size_t capacity) {
    std::shared_ptr<WriteStream> stream{new WriteStream(capacity)};
    stream->self_ = stream;
    return stream;
  }

  // False: the queue is full or the stream has ended; the message is not sent.
  bool offer(Message message) {
    const std::lock_guard lock(mutex_);
    if (status_ || queue_.size() >= capacity_) return false;
    queue_.push_back(std::move(message));
    write_next();
    return true;
  }
  // Ends when everything offered has been written.
  void end(grpc::Status status) {
    const std::lock_guard lock(mutex_);
    if (!status_) status_ = std::move(status);
    write_next();
  }
  [[nodiscard]] bool ended() const {
    const std::lock_guard lock(mutex_);
    return status_.has_value();
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    queue_.pop_front();
    if (!ok) give_up();
    write_next();
  }
  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    give_up();
    write_next();
  }
  void OnDone() override { const std::shared_ptr<WriteStream> self = std::move(self_); }

 private:
  explicit WriteStream(std::size_t capacity) : capacity_(capacity) {}

  // The message being written is gRPC's until OnWriteDone.
  void give_up() {
    while (queue_.size() > (writing_ ? 1U : 0U)) queue_.pop_back();
    status_ = grpc::Status::CANCELLED;
  }
  void write_next() {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      this->StartWrite(&queue_.front());
    } else if (status_) {
      finished_ = true;
      this->Finish(*status_);
    }
  }

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::deque<Message> queue_;  // front: being written while `writing_`
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> status_;  // what to end with
  std::shared_ptr<WriteStream> self_;
};

}  // namespace penstock::rpc
