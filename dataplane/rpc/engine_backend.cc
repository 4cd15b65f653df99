#include "dataplane/rpc/backend.h"
#include "dataplane/runtime/clock.h"

namespace penstock::rpc {
namespace {

class EngineBackend final : public Backend {
 public:
  EngineBackend(runtime::Engine& engine, runtime::PolicyStore& store) : engine_(engine), store_(store) {}

  runtime::PolicyStore::Result apply(const runtime::PolicyStore::Batch& batch) override {
    return store_.apply(batch, runtime::PolicyStore::Origin::control);
  }
  std::vector<runtime::PeerSpec> peer_specs() override { return store_.peers(); }
  std::vector<runtime::AuthorisationSpec> authorisations() override { return store_.authorisations(); }
  std::vector<runtime::TranslationSpec> translations() override { return store_.translations(); }
  std::uint64_t generation() override { return store_.generation(); }

  void set_stun_servers(std::vector<Endpoint> servers) override { engine_.set_stun_servers(std::move(servers)); }
  void send_control(const runtime::KeyBytes& peer, Bytes payload) override { engine_.send_control(peer, payload); }
  void send_datagram(std::vector<Endpoint> remotes, Bytes payload) override {
    engine_.send_datagram(std::move(remotes), payload);
  }
  runtime::EngineInfo info() override { return engine_.info(); }
  gateway::WorkerCounters counters() override { return engine_.counters(); }
  std::vector<runtime::PeerRow> peers(std::size_t limit) override {
    auto rows = engine_.peers(limit);
    for (auto& row : rows) row.authorisations = store_.authorisation_count(row.peer);
    return rows;
  }
  runtime::FlowTable flows(std::size_t limit) override { return engine_.flows(limit); }
  std::vector<gateway::NeighbourView> neighbours(std::size_t limit) override { return engine_.neighbours(limit); }
  std::vector<runtime::PortRow> ports() override { return engine_.ports(); }
  Instant now() override { return runtime::read_clock().monotonic; }

  runtime::BoundedQueue<runtime::EngineEvent>& events() override { return engine_.events(); }
  runtime::BoundedQueue<runtime::Punt>& punts() override { return engine_.punts(); }

 private:
  runtime::Engine& engine_;
  runtime::PolicyStore& store_;
};

}  // namespace

std::unique_ptr<Backend> make_engine_backend(runtime::Engine& engine, runtime::PolicyStore& store) {
  return std::make_unique<EngineBackend>(engine, store);
}

}  // namespace penstock::rpc
