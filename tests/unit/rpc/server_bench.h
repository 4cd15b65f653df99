// The data plane's server over a real unix socket, with the control process's stubs, and operations to apply.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/rpc/convert.h"
#include "dataplane/rpc/server.h"
#include "fake_backend.h"
#include "penstock/v1/dataplane.grpc.pb.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::rpc {

inline std::chrono::system_clock::time_point soon() {
  return std::chrono::system_clock::now() + std::chrono::seconds{10};
}

class RpcServer : public testing::Test {
 protected:
  void start() {
    auto backend = std::make_unique<FakeBackend>();
    backend_ = backend.get();
    prepare();
    std::string error;
    server_ = make_rpc_server(std::move(backend), {.socket = socket_, .allowed_uids = {::getuid()}}, error);
    ASSERT_NE(server_, nullptr) << error;
    channel_ = connect();
    data_plane_ = v1::DataPlane::NewStub(channel_);
    inspect_ = v1::Inspect::NewStub(channel_);
  }
  void SetUp() override { start(); }
  virtual void prepare() {}

  std::shared_ptr<grpc::Channel> connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments);
  }
  v1::ApplyResponse apply(const v1::ApplyRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(soon());
    v1::ApplyResponse response;
    const auto status = data_plane_->Apply(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  std::vector<v1::DumpItem> dump() {
    grpc::ClientContext context;
    context.set_deadline(soon());
    const auto reader = data_plane_->Dump(&context, {});
    std::vector<v1::DumpItem> items;
    for (v1::DumpItem item; reader->Read(&item);) items.push_back(item);
    EXPECT_TRUE(reader->Finish().ok());
    return items;
  }
  // Waits for what another thread does.
  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
    return true;
  }

  TemporaryDirectory directory_;
  std::string socket_ = directory_.file("run/dataplane.sock");
  FakeBackend* backend_ = nullptr;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DataPlane::Stub> data_plane_;
  std::unique_ptr<v1::Inspect::Stub> inspect_;
};

inline v1::Operation peer(std::uint8_t n) {
  v1::Operation operation;
  v1::Peer& message = *operation.mutable_upsert_peer();
  message.set_public_key(wire_of(key(n)));
  message.set_preshared_key(wire_of(key(200)));
  message.mutable_tunnel()->set_v4(wire_of(IpAddress::v4(0x64400000U + n)));
  message.set_control(true);
  return operation;
}
inline v1::Operation authorisation(std::uint8_t n, const std::string& id) {
  v1::Operation operation;
  v1::PeerAuthorisation& message = *operation.mutable_upsert_authorisation();
  message.set_id(id);
  message.set_peer(wire_of(key(n)));
  message.mutable_resource()->set_id("corp");
  message.mutable_resource()->set_kind(v1::RESOURCE_KIND_DNS);
  message.mutable_resource()->set_pattern("**.corp.example");
  return operation;
}
inline v1::Operation translation(std::uint8_t n, const std::string& id) {
  v1::Operation operation;
  v1::PeerTranslation& message = *operation.mutable_upsert_translation();
  message.set_id(id);
  message.set_peer(wire_of(key(n)));
  message.set_resource("corp");
  message.set_name("web.corp.example");
  message.set_proxy_v4(wire_of(ip("100.96.0.9")));
  message.set_state(v1::PeerTranslation::STATE_ACTIVE);
  message.add_addresses(wire_of(ip("203.0.113.80")));
  return operation;
}

}  // namespace penstock::rpc
