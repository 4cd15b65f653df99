#include "dataplane/rpc/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <optional>

#include "dataplane/rpc/dispatcher.h"
#include "dataplane/rpc/executor.h"
#include "dataplane/rpc/peer_socket.h"
#include "dataplane/rpc/services.h"

namespace penstock::rpc {
namespace {

constexpr int kMaxRequestBytes = 64 << 20;  // a full synchronisation in one request

class GrpcServer final : public Server {
 public:
  explicit GrpcServer(std::unique_ptr<Backend> backend)
      : backend_(std::move(backend)),
        executor_(std::in_place),
        dispatcher_(*backend_, *executor_),
        data_plane_(*backend_, *executor_, dispatcher_),
        inspect_(*backend_, *executor_) {}

  bool start(const ServerOptions& options, std::string& error) {
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.RegisterService(&data_plane_);
    builder.RegisterService(&inspect_);
    server_ = builder.BuildAndStart();
    if (!server_) {
      error = "gRPC does not start";
      return false;
    }
    socket_ = PeerSocket::listen(
        options.socket, options.allowed_uids, [this](int fd) { grpc::AddInsecureChannelFromFd(server_.get(), fd); },
        error);
    return socket_ != nullptr;
  }

  ~GrpcServer() override {
    socket_.reset();     // nobody new
    dispatcher_.stop();  // nothing new
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    executor_.reset();  // runs what was still asked
  }

  [[nodiscard]] std::uint64_t refused_connections() const override { return socket_ ? socket_->refused() : 0; }

 private:
  std::unique_ptr<Backend> backend_;
  std::optional<Executor> executor_;
  Dispatcher dispatcher_;
  DataPlaneService data_plane_;
  InspectService inspect_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<PeerSocket> socket_;
};

}  // namespace

std::unique_ptr<Server> make_rpc_server(std::unique_ptr<Backend> backend, const ServerOptions& options,
                                        std::string& error) {
  auto server = std::make_unique<GrpcServer>(std::move(backend));
  if (!server->start(options, error)) return nullptr;
  return server;
}

std::unique_ptr<Server> make_rpc_server(runtime::Engine& engine, runtime::PolicyStore& store,
                                        const ServerOptions& options, std::string& error) {
  return make_rpc_server(make_engine_backend(engine, store), options, error);
}

}  // namespace penstock::rpc
