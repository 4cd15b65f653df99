#include "tests/unit/agent/fake_dataplane_server.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "penstock/v1/dataplane.grpc.pb.h"

namespace penstock {

struct FakeDataPlaneServer::Impl final : v1::DataPlane::Service {
  grpc::Status Apply(grpc::ServerContext*, const v1::ApplyRequest* request, v1::ApplyResponse* response) override {
    const std::lock_guard lock{mutex};
    *response = plane.apply(*request);
    return grpc::Status::OK;
  }
  grpc::Status Dump(grpc::ServerContext*, const v1::DumpRequest*, grpc::ServerWriter<v1::DumpItem>* writer) override {
    std::vector<v1::DumpItem> items;
    {
      const std::lock_guard lock{mutex};
      items = plane.dump();
    }
    for (const auto& item : items) writer->Write(item);
    return grpc::Status::OK;
  }
  grpc::Status Subscribe(grpc::ServerContext* context, const v1::SubscribeRequest*,
                         grpc::ServerWriter<v1::Event>* writer) override {
    return pour(context, events, subscribed, [&](const v1::Event& event) { return writer->Write(event); });
  }
  grpc::Status Punt(grpc::ServerContext* context,
                    grpc::ServerReaderWriter<v1::PuntToControl, v1::PuntFromControl>* stream) override {
    std::thread reader{[&] {
      v1::PuntFromControl message;
      while (stream->Read(&message)) {
        const std::lock_guard lock{mutex};
        inbox.push_back(message);
      }
    }};
    const auto status =
        pour(context, punts, punting, [&](const v1::PuntToControl& punt) { return stream->Write(punt); });
    context->TryCancel();
    reader.join();
    return status;
  }

  // Writes what is queued until the call or the server ends.
  template <typename Item, typename Write>
  grpc::Status pour(grpc::ServerContext* context, std::deque<Item>& queue, int& standing, Write write) {
    std::unique_lock lock{mutex};
    ++standing;
    while (!ending && !context->IsCancelled()) {
      // A cancelled call wakes nobody: it is looked for now and then.
      wake.wait_for(lock, std::chrono::milliseconds{20});
      while (!queue.empty()) {
        const Item item = queue.front();
        queue.pop_front();
        lock.unlock();
        const bool written = write(item);
        lock.lock();
        if (!written) break;
      }
    }
    --standing;
    return {grpc::StatusCode::UNAVAILABLE, "the data plane ends"};
  }

  mutable std::mutex mutex;
  std::condition_variable wake;
  FakeDataPlane plane;
  std::deque<v1::Event> events;
  std::deque<v1::PuntToControl> punts;
  std::vector<v1::PuntFromControl> inbox;
  int subscribed = 0;
  int punting = 0;
  bool ending = false;
  std::unique_ptr<grpc::Server> server;
};

FakeDataPlaneServer::FakeDataPlaneServer(const std::string& socket_path, const v1::DataPlaneInfo& info)
    : impl_(std::make_unique<Impl>()) {
  impl_->plane.info = info;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_path, grpc::InsecureServerCredentials());
  builder.RegisterService(impl_.get());
  impl_->server = builder.BuildAndStart();
}

FakeDataPlaneServer::~FakeDataPlaneServer() {
  {
    const std::lock_guard lock{impl_->mutex};
    impl_->ending = true;
  }
  impl_->wake.notify_all();
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
}

FakeDataPlane FakeDataPlaneServer::state() const {
  const std::lock_guard lock{impl_->mutex};
  return impl_->plane;
}

void FakeDataPlaneServer::emit(const v1::Event& event) {
  {
    const std::lock_guard lock{impl_->mutex};
    impl_->events.push_back(event);
  }
  impl_->wake.notify_all();
}

void FakeDataPlaneServer::emit(const v1::PuntToControl& punt) {
  {
    const std::lock_guard lock{impl_->mutex};
    impl_->punts.push_back(punt);
  }
  impl_->wake.notify_all();
}

std::vector<v1::PuntFromControl> FakeDataPlaneServer::received() const {
  const std::lock_guard lock{impl_->mutex};
  return impl_->inbox;
}

bool FakeDataPlaneServer::connected() const {
  const std::lock_guard lock{impl_->mutex};
  return impl_->subscribed > 0 && impl_->punting > 0;
}

}  // namespace penstock
