#include <grpcpp/grpcpp.h>

#include "controlplane/core/backoff.h"
#include "controlplane/io/dataplane_client.h"
#include "controlplane/io/live_count.h"
#include "controlplane/io/post_gate.h"
#include "controlplane/io/write_queue.h"
#include "penstock/v1/dataplane.grpc.pb.h"

namespace penstock::io {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMaxQueued = 4096;
constexpr int kMaxMessage = 64 << 20;
constexpr Duration kApplyDeadline = 10s;
constexpr Duration kDumpDeadline = 10s;

struct Context {
  std::shared_ptr<PostGate> gate;
  std::shared_ptr<LiveCount> live;
  std::shared_ptr<v1::DataPlane::Stub> stub;
};

// Of a call that gRPC is done with: its owner learns on the loop's thread, where the call dies.
template <typename Call>
void end_call(const Context& context, std::shared_ptr<Call> call, const grpc::Status& status) {
  const auto live = context.live;
  const auto gate = context.gate;
  gate->post([call = std::move(call), status] { call->ended(status); });
  live->leave();
}

// A stream from the data plane. Lives until gRPC is done with it, and dies on the loop's thread.
template <typename Item>
class ReadCall final : public grpc::ClientReadReactor<Item>, public std::enable_shared_from_this<ReadCall<Item>> {
 public:
  using OnItem = std::function<void(const Item&)>;
  using OnEnd = std::function<void(const grpc::Status&)>;

  ReadCall(const Context& context, OnItem item, OnEnd end)
      : context_(context), on_item_(std::move(item)), on_end_(std::move(end)) {}

  template <typename Start>
  void start(Start begin) {
    self_ = this->shared_from_this();
    context_.live->enter();
    begin(*context_.stub->async(), &call_, this);
    this->StartRead(&item_);
    this->StartCall();
  }
  void set_deadline(Duration from_now) { call_.set_deadline(std::chrono::system_clock::now() + from_now); }
  void abandon() {
    on_item_ = nullptr;
    on_end_ = nullptr;
    call_.TryCancel();
  }
  void ended(const grpc::Status& status) {
    const auto hook = on_end_;
    if (hook) hook(status);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    context_.gate->post([self = this->shared_from_this(), item = std::move(item_)] {
      const auto hook = self->on_item_;
      if (hook) hook(item);
    });
    item_ = {};
    this->StartRead(&item_);
  }
  void OnDone(const grpc::Status& status) override {
    end_call(context_, std::move(self_), status);
  }

  Context context_;
  grpc::ClientContext call_;
  OnItem on_item_;
  OnEnd on_end_;
  Item item_;
  std::shared_ptr<ReadCall> self_;
};

class PuntCall final : public grpc::ClientBidiReactor<v1::PuntFromControl, v1::PuntToControl>,
                       public std::enable_shared_from_this<PuntCall> {
 public:
  using OnItem = std::function<void(const v1::PuntToControl&)>;
  using OnEnd = std::function<void(const grpc::Status&)>;

  PuntCall(const Context& context, OnItem item, OnEnd end)
      : context_(context), on_item_(std::move(item)), on_end_(std::move(end)) {}

  void start() {
    self_ = shared_from_this();
    context_.live->enter();
    context_.stub->async()->Punt(&call_, this);
    AddHold();
    StartRead(&item_);
    StartCall();
  }
  void send(v1::PuntFromControl message) { (void)queue_.send(std::move(message)); }  // lost when too many wait
  [[nodiscard]] bool idle() const { return queue_.idle(); }
  void abandon() {
    on_item_ = nullptr;
    on_end_ = nullptr;
    call_.TryCancel();
    release();
  }
  void ended(const grpc::Status& status) {
    const auto hook = on_end_;
    if (hook) hook(status);
  }

 private:
  void release() {
    if (std::exchange(released_, true)) return;
    queue_.close();
    RemoveHold();
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      context_.gate->post([self = shared_from_this()] {
        self->call_.TryCancel();
        self->release();
      });
      return;
    }
    context_.gate->post([self = shared_from_this(), item = std::move(item_)] {
      const auto hook = self->on_item_;
      if (hook) hook(item);
    });
    item_ = {};
    StartRead(&item_);
  }
  void OnWriteDone(bool ok) override { queue_.written(ok); }
  void OnDone(const grpc::Status& status) override {
    end_call(context_, std::move(self_), status);
  }

  Context context_;
  grpc::ClientContext call_;
  OnItem on_item_;
  OnEnd on_end_;
  v1::PuntToControl item_;
  WriteQueue<v1::PuntFromControl> queue_{kMaxQueued, [this](const auto& message) { StartWrite(&message); }};
  bool released_ = false;  // loop's thread
  std::shared_ptr<PuntCall> self_;
};

struct ApplyCall {
  grpc::ClientContext call;
  v1::ApplyRequest request;
  v1::ApplyResponse response;
};

}  // namespace

struct DataPlaneClient::Impl {
  Impl(Loop& loop_in, Random& random_in, std::string path, Callbacks callbacks_in)
      : loop(loop_in),
        random(random_in),
        socket_path(std::move(path)),
        callbacks(std::move(callbacks_in)),
        retry(loop.add_timer([this] { dial(); })) {
    context.gate = std::make_shared<PostGate>(loop);
    context.live = std::make_shared<LiveCount>();
  }

  void dial() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kMaxMessage);
    arguments.SetInt(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, kMaxMessage);
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    context.stub = v1::DataPlane::NewStub(
        grpc::CreateCustomChannel("unix:" + socket_path, grpc::InsecureChannelCredentials(), arguments));
    const std::uint64_t session = ++current;
    dumped.clear();
    early.clear();
    // Hooks run only while the object lives: the destructor abandons every call first.
    const auto ended = [this, session](const grpc::Status& status) {
      lost(session, status.error_message().empty() ? "stream ended" : status.error_message());
    };
    events = std::make_shared<ReadCall<v1::Event>>(
        context,
        [this](const v1::Event& event) {
          if (is_up)
            callbacks.event(event);
          else
            early.push_back(event);
        },
        ended);
    events->start([](auto& stub, grpc::ClientContext* call, auto* reactor) {
      static const v1::SubscribeRequest request;
      stub.Subscribe(call, &request, reactor);
    });
    punt = std::make_shared<PuntCall>(
        context,
        [this](const v1::PuntToControl& message) {
          if (is_up) callbacks.punt(message);  // before that: repeated by its sender
        },
        ended);
    punt->start();
    dump = std::make_shared<ReadCall<v1::DumpItem>>(
        context, [this](const v1::DumpItem& item) { dumped.push_back(item); },
        [this, session, ended](const grpc::Status& status) {
          if (!status.ok()) return ended(status);
          if (session == current) came_up();
        });
    dump->set_deadline(kDumpDeadline);
    dump->start([](auto& stub, grpc::ClientContext* call, auto* reactor) {
      static const v1::DumpRequest request;
      stub.Dump(call, &request, reactor);
    });
  }

  void came_up() {
    is_up = true;
    backoff.reset();
    const auto items = std::move(dumped);
    dumped.clear();
    callbacks.up(items);
    const auto waiting = std::move(early);
    early.clear();
    for (const v1::Event& event : waiting)
      if (is_up) callbacks.event(event);
  }

  void lost(std::uint64_t session, const std::string& why) {
    if (session != current) return;
    ++current;
    abandon();
    const bool was_up = std::exchange(is_up, false);
    retry.set(Loop::now().monotonic + backoff.next(random));
    if (was_up)
      callbacks.down(why);
    else if (callbacks.attempt_failed)
      callbacks.attempt_failed(why);
  }

  void abandon() {
    if (events) events->abandon();
    if (punt) punt->abandon();
    if (dump) dump->abandon();
    events.reset();
    punt.reset();
    dump.reset();
    if (applying) applying->call.TryCancel();
    applying.reset();
  }

  void apply(std::uint64_t ticket, const v1::ApplyRequest& request) {
    if (!is_up) return;
    auto call = std::make_shared<ApplyCall>();
    call->request = request;
    call->call.set_deadline(std::chrono::system_clock::now() + kApplyDeadline);
    applying = call;
    context.live->enter();
    context.stub->async()->Apply(
        &call->call, &call->request, &call->response,
        [this, call, ticket, session = current, gate = context.gate, live = context.live](grpc::Status status) mutable {
          gate->post([this, call = std::move(call), ticket, session, status] {
            if (session != current) return;
            if (!status.ok()) return lost(session, "Apply: " + status.error_message());
            if (applying == call) applying.reset();
            callbacks.applied(ticket, call->response);
          });
          live->leave();
        });
  }

  Loop& loop;
  Random& random;
  std::string socket_path;
  Callbacks callbacks;
  Loop::Timer retry;
  Backoff backoff{100ms, 2s};
  Context context;
  std::uint64_t current = 0;
  bool is_up = false;
  std::vector<v1::DumpItem> dumped;
  std::vector<v1::Event> early;
  std::shared_ptr<ReadCall<v1::Event>> events;
  std::shared_ptr<ReadCall<v1::DumpItem>> dump;
  std::shared_ptr<PuntCall> punt;
  std::shared_ptr<ApplyCall> applying;
};

DataPlaneClient::DataPlaneClient(Loop& loop, Random& random, std::string socket_path, Callbacks callbacks)
    : impl_(std::make_shared<Impl>(loop, random, std::move(socket_path), std::move(callbacks))) {}

DataPlaneClient::~DataPlaneClient() {
  ++impl_->current;
  impl_->abandon();
  impl_->context.live->wait_idle();
  impl_->context.gate->close();
}

void DataPlaneClient::start() {
  impl_->dial();
}

void DataPlaneClient::apply(std::uint64_t ticket, const v1::ApplyRequest& request) {
  impl_->apply(ticket, request);
}

void DataPlaneClient::send(v1::PuntFromControl message) {
  if (impl_->is_up && impl_->punt) impl_->punt->send(std::move(message));
}

void DataPlaneClient::drain() {
  const Instant end = Loop::now().monotonic + 1s;
  while (impl_->punt && !impl_->punt->idle() && Loop::now().monotonic < end) impl_->loop.run_once(10ms);
}

}  // namespace penstock::io
