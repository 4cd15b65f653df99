#include "tests/unit/portal/status_server.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>

namespace penstock {

struct StatusServer::Impl {
  struct Refusal : grpc::ServerGenericBidiReactor {
    explicit Refusal(const grpc::Status& status) { Finish(status); }
    void OnDone() override { delete this; }
  };
  struct Service : grpc::CallbackGenericService {
    grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
      ++calls;
      return new Refusal(status);
    }
    grpc::Status status;
    std::atomic<int> calls{0};
  };
  Service service;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

StatusServer::StatusServer(const TestPki& pki, int code) : impl_(std::make_unique<Impl>()) {
  impl_->service.status = grpc::Status(static_cast<grpc::StatusCode>(code), "refused by the test");
  grpc::SslServerCredentialsOptions tls;
  tls.pem_key_cert_pairs.push_back({pki.key_pem, pki.certificate_pem});
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(tls), &impl_->port);
  builder.RegisterCallbackGenericService(&impl_->service);
  impl_->server = builder.BuildAndStart();
}

StatusServer::~StatusServer() {
  if (impl_->server) impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds{1});
}

std::uint16_t StatusServer::port() const {
  return static_cast<std::uint16_t>(impl_->port);
}

int StatusServer::calls() const {
  return impl_->service.calls;
}

}  // namespace penstock
