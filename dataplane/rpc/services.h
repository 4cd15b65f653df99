// The two gRPC services. Every call becomes work for the executor, which alone talks to the backend.
#pragma once

#include "dataplane/rpc/backend.h"
#include "dataplane/rpc/dispatcher.h"
#include "dataplane/rpc/executor.h"
#include "penstock/v1/dataplane.grpc.pb.h"
#include "penstock/v1/inspect.grpc.pb.h"

namespace penstock::rpc {

class DataPlaneService final : public v1::DataPlane::CallbackService {
 public:
  DataPlaneService(Backend& backend, Executor& executor, Dispatcher& dispatcher)
      : backend_(backend), executor_(executor), dispatcher_(dispatcher) {}

  grpc::ServerUnaryReactor* Apply(grpc::CallbackServerContext* context, const v1::ApplyRequest* request,
                                  v1::ApplyResponse* response) override;
  grpc::ServerWriteReactor<v1::DumpItem>* Dump(grpc::CallbackServerContext* context,
                                               const v1::DumpRequest* request) override;
  grpc::ServerWriteReactor<v1::Event>* Subscribe(grpc::CallbackServerContext* context,
                                                 const v1::SubscribeRequest* request) override;
  grpc::ServerBidiReactor<v1::PuntFromControl, v1::PuntToControl>* Punt(grpc::CallbackServerContext* context) override;

 private:
  void apply(const v1::ApplyRequest& request, v1::ApplyResponse& response);
  void send(const v1::Datagram& datagram);
  void handle_punt(const v1::PuntFromControl& message);

  Backend& backend_;
  Executor& executor_;
  Dispatcher& dispatcher_;
};

class InspectService final : public v1::Inspect::CallbackService {
 public:
  InspectService(Backend& backend, Executor& executor) : backend_(backend), executor_(executor) {}

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context, const v1::StatusRequest* request,
                                   v1::StatusReply* reply) override;
  grpc::ServerUnaryReactor* ShowPeers(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                      v1::PeersReply* reply) override;
  grpc::ServerUnaryReactor* ShowFlows(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                      v1::FlowsReply* reply) override;
  grpc::ServerUnaryReactor* ShowNames(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                      v1::NamesReply* reply) override;
  grpc::ServerUnaryReactor* ShowDrops(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                      v1::DropsReply* reply) override;
  grpc::ServerUnaryReactor* ShowPorts(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                      v1::PortsReply* reply) override;
  grpc::ServerUnaryReactor* ShowNeighbours(grpc::CallbackServerContext* context, const v1::ShowRequest* request,
                                           v1::NeighboursReply* reply) override;

 private:
  template <typename Fill>
  grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, Fill fill) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    executor_.post([reactor, fill] {
      fill();
      reactor->Finish(grpc::Status::OK);
    });
    return reactor;
  }

  Backend& backend_;
  Executor& executor_;
};

}  // namespace penstock::rpc
