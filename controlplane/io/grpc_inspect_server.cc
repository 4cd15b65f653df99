#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <system_error>
#include <vector>

#include "controlplane/io/inspect_server.h"
#include "controlplane/io/post_gate.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::io {
namespace {

// Whether somebody listens on the socket file: a second process must not take it away.
bool is_alive(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool alive = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return alive;
}

class Service final : public v1::Inspect::CallbackService {
 public:
  Service(std::shared_ptr<PostGate> gate, InspectAnswers answers)
      : gate_(std::move(gate)), answers_(std::make_shared<InspectAnswers>(std::move(answers))) {}

  // Loop's thread, after the gate has been closed.
  void finish_all() {
    std::vector<std::weak_ptr<Question>> waiting;
    {
      const std::lock_guard lock{mutex_};
      waiting.swap(waiting_);
    }
    for (const auto& weak : waiting)
      if (const auto question = weak.lock()) question->finish({grpc::StatusCode::UNAVAILABLE, "the process is ending"});
  }

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest*,
                                   v1::StatusReply* reply) override {
    return ask(context, reply, [](const InspectAnswers& answers, v1::StatusReply& out) {
      if (answers.status) out = answers.status();
      return answers.status != nullptr;
    });
  }
#define PENSTOCK_SHOW(Rpc, Reply, field)                                                                            \
  grpc::ServerUnaryReactor* Rpc(grpc::CallbackServerContext* context, const v1::ShowRequest* request, Reply* reply) \
      override {                                                                                                    \
    return ask(context, reply, [limit = request->limit()](const InspectAnswers& answers, Reply& out) {              \
      if (answers.field) out = answers.field(limit);                                                                \
      return answers.field != nullptr;                                                                              \
    });                                                                                                             \
  }
  PENSTOCK_SHOW(ShowPeers, v1::PeersReply, peers)
  PENSTOCK_SHOW(ShowFlows, v1::FlowsReply, flows)
  PENSTOCK_SHOW(ShowNames, v1::NamesReply, names)
  PENSTOCK_SHOW(ShowDrops, v1::DropsReply, drops)
  PENSTOCK_SHOW(ShowPorts, v1::PortsReply, ports)
  PENSTOCK_SHOW(ShowNeighbours, v1::NeighboursReply, neighbours)
#undef PENSTOCK_SHOW

 private:
  // One call waiting for the loop. A question the loop never comes to (the process is ending) is still finished: gRPC's
  // shutdown waits for every call. finish() is the loop thread's; the destructor may run anywhere, but then nobody else
  // knows the question any more.
  class Question {
   public:
    explicit Question(grpc::ServerUnaryReactor* reactor) : reactor_(reactor) {}
    Question(const Question&) = delete;
    Question& operator=(const Question&) = delete;
    ~Question() { finish({grpc::StatusCode::UNAVAILABLE, "the process is ending"}); }
    [[nodiscard]] bool open() const { return reactor_ != nullptr; }
    void finish(const grpc::Status& status) {
      if (reactor_ != nullptr) reactor_->Finish(status);
      reactor_ = nullptr;
    }

   private:
    grpc::ServerUnaryReactor* reactor_;
  };

  template <typename Reply, typename Fill>
  grpc::ServerUnaryReactor* ask(grpc::CallbackServerContext* context, Reply* reply, Fill fill) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    auto question = std::make_shared<Question>(reactor);
    remember(question);
    gate_->post([question = std::move(question), reply, fill, answers = answers_] {
      if (!question->open()) return;
      if (fill(*answers, *reply))
        question->finish(grpc::Status::OK);
      else
        question->finish({grpc::StatusCode::UNIMPLEMENTED, answers->elsewhere});
    });
    return reactor;
  }

  void remember(const std::shared_ptr<Question>& question) {
    const std::lock_guard lock{mutex_};
    std::erase_if(waiting_, [](const auto& weak) { return weak.expired(); });
    waiting_.push_back(question);
  }

  std::shared_ptr<PostGate> gate_;
  std::shared_ptr<InspectAnswers> answers_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Question>> waiting_;
};

}  // namespace

struct InspectServer::Impl {
  std::string path;
  std::shared_ptr<PostGate> gate;
  std::unique_ptr<Service> service;
  std::unique_ptr<grpc::Server> server;
};

std::unique_ptr<InspectServer> InspectServer::listen(Loop& loop, const std::string& socket_path, InspectAnswers answers,
                                                     std::string& error) {
  if (socket_path.empty() || socket_path.size() >= sizeof(sockaddr_un{}.sun_path)) {
    error = "a socket path has 1 to 107 characters";
    return nullptr;
  }
  std::error_code code;
  const auto directory = std::filesystem::path{socket_path}.parent_path();
  if (!directory.empty()) std::filesystem::create_directories(directory, code);
  if (code) {
    error = "cannot create " + directory.string() + ": " + code.message();
    return nullptr;
  }
  struct stat status {};
  if (lstat(socket_path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      error = socket_path + " exists and is not a socket";
      return nullptr;
    }
    if (is_alive(socket_path)) {
      error = "another process listens on " + socket_path;
      return nullptr;
    }
    unlink(socket_path.c_str());
  }

  auto impl = std::make_unique<Impl>();
  impl->path = socket_path;
  impl->gate = std::make_shared<PostGate>(loop);
  impl->service = std::make_unique<Service>(impl->gate, std::move(answers));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("unix:" + socket_path, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(impl->service.get());
  const mode_t before = umask(0177);  // the socket is never open to others, not even between bind and chmod
  impl->server = builder.BuildAndStart();
  umask(before);
  if (!impl->server || port == 0) {
    error = "cannot listen on " + socket_path;
    return nullptr;
  }
  return std::unique_ptr<InspectServer>(new InspectServer(std::move(impl)));
}

InspectServer::InspectServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

InspectServer::~InspectServer() {
  impl_->gate->close();
  impl_->service->finish_all();
  // Takes the socket's file away as well, before it stops to listen: afterwards it may be the next process's.
  impl_->server->Shutdown(std::chrono::system_clock::now());
}

}  // namespace penstock::io
