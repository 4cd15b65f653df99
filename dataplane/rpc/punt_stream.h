// The punt stream: in-tunnel control and datagrams between the control process and the data plane.
//
// Incoming messages are handed to `handle` on the executor, one after the other; the next is read when it returns, so a
// control process that sends faster than the engine takes it is slowed down, not buffered.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "dataplane/rpc/executor.h"
#include "penstock/v1/dataplane.pb.h"

namespace penstock::rpc {

class PuntStream final : public grpc::ServerBidiReactor<v1::PuntFromControl, v1::PuntToControl> {
 public:
  static constexpr std::size_t kCapacity = 1024;
  using Handler = std::function<void(const v1::PuntFromControl&)>;

  static std::shared_ptr<PuntStream> create(Executor& executor, Handler handle);

  // False: the queue is full or the stream has ended.
  bool offer(v1::PuntToControl message);
  // At once; what is queued is not sent.
  void end(const grpc::Status& status);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { const std::shared_ptr<PuntStream> self = std::move(self_); }

 private:
  PuntStream(Executor& executor, Handler handle) : executor_(executor), handle_(std::move(handle)) {}
  void write_next();

  Executor& executor_;
  const Handler handle_;
  std::mutex mutex_;
  v1::PuntFromControl incoming_;
  std::deque<v1::PuntToControl> queue_;  // front: being written while `writing_`
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> status_;
  std::shared_ptr<PuntStream> self_;
};

}  // namespace penstock::rpc
