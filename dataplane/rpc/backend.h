// What the gRPC services need of the data plane. Implemented over Engine and PolicyStore by engine_backend.cc and by
// tests in memory; plain C++, no gRPC.
//
// Calls come from one thread at a time (the server's executor), and may block for a grace period.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/policy_store.h"

namespace penstock::rpc {

class Backend {
 public:
  virtual ~Backend() = default;

  // As PolicyStore.
  virtual runtime::PolicyStore::Result apply(const runtime::PolicyStore::Batch& batch) = 0;
  virtual std::vector<runtime::PeerSpec> peer_specs() = 0;
  virtual std::vector<runtime::AuthorisationSpec> authorisations() = 0;
  virtual std::vector<runtime::TranslationSpec> translations() = 0;
  virtual std::uint64_t generation() = 0;

  // As Engine.
  virtual void set_stun_servers(std::vector<Endpoint> servers) = 0;
  virtual void send_control(const runtime::KeyBytes& peer, Bytes payload) = 0;
  virtual void send_datagram(std::vector<Endpoint> remotes, Bytes payload) = 0;
  virtual runtime::EngineInfo info() = 0;
  virtual gateway::WorkerCounters counters() = 0;
  virtual std::vector<runtime::PeerRow> peers(std::size_t limit) = 0;
  virtual runtime::FlowTable flows(std::size_t limit) = 0;
  virtual std::vector<gateway::NeighbourView> neighbours(std::size_t limit) = 0;
  virtual std::vector<runtime::PortRow> ports() = 0;
  virtual Instant now() = 0;

  virtual runtime::BoundedQueue<runtime::EngineEvent>& events() = 0;
  virtual runtime::BoundedQueue<runtime::Punt>& punts() = 0;
};

// Both outlive the backend.
[[nodiscard]] std::unique_ptr<Backend> make_engine_backend(runtime::Engine& engine, runtime::PolicyStore& store);

}  // namespace penstock::rpc
