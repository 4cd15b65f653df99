#include "dataplane/rpc/punt_stream.h"

#include <utility>

namespace penstock::rpc {

std::shared_ptr<PuntStream> PuntStream::create(Executor& executor, Handler handle) {
  std::shared_ptr<PuntStream> stream{new PuntStream(executor, std::move(handle))};
  stream->self_ = stream;
  stream->StartSendInitialMetadata();  // tells the client that it is the one stream now
  stream->StartRead(&stream->incoming_);
  return stream;
}

bool PuntStream::offer(v1::PuntToControl message) {
  const std::lock_guard lock(mutex_);
  if (status_ || queue_.size() >= kCapacity) return false;
  queue_.push_back(std::move(message));
  write_next();
  return true;
}

void PuntStream::end(const grpc::Status& status) {
  const std::lock_guard lock(mutex_);
  if (!status_) status_ = status;
  while (queue_.size() > (writing_ ? 1U : 0U)) queue_.pop_back();
  write_next();
}

void PuntStream::write_next() {
  if (writing_ || finished_) return;
  if (status_) {
    finished_ = true;
    Finish(*status_);
  } else if (!queue_.empty()) {
    writing_ = true;
    StartWrite(&queue_.front());
  }
}

void PuntStream::OnReadDone(bool ok) {
  if (!ok) return end(grpc::Status::OK);  // the control process has no more to say: it is gone or going
  executor_.post([this, self = self_] {
    handle_(incoming_);
    const std::lock_guard lock(mutex_);
    if (!finished_) StartRead(&incoming_);
  });
}

void PuntStream::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    queue_.pop_front();
    write_next();
  }
  if (!ok) end(grpc::Status::CANCELLED);
}

void PuntStream::OnCancel() {
  end(grpc::Status::CANCELLED);
}

}  // namespace penstock::rpc
