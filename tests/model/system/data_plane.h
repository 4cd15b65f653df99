// A gateway's data plane in memory: the real stages, translator, slow path and policy store, one worker, driven by one
// thread under virtual time, with frames in and out. What the engine does with threads and rings happens here at once.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "dataplane/core/nat/translator.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/graph.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/slow_path.h"
#include "dataplane/runtime/policy_store.h"
#include "penstock/v1/dataplane.pb.h"

namespace penstock::model {

// Buffers on the heap, used again; counted, so that a leak shows.
class PacketBuffers final : public PacketSource {
 public:
  ~PacketBuffers() override;
  Packet* allocate() override;
  Packet* with(Bytes bytes, PortIndex port);
  void release(Packet* packet);
  [[nodiscard]] std::size_t live() const { return live_; }

 private:
  std::vector<Packet*> free_, all_;
  std::size_t live_ = 0;
};

class DataPlane final : public runtime::PolicySink {
 public:
  static constexpr PortIndex kWan = 0, kLan = 1;
  struct Config {
    gateway::ConfigurationDescription path;
    wireguard::PrivateKey key;
    std::size_t max_peers = 64;
    std::uint32_t max_flows = 512;
    std::uint64_t instance = 1;
  };
  DataPlane(const Config& config, Random& random, Now now);
  ~DataPlane() override;

  void receive(PortIndex port, Bytes frame, Now now);
  [[nodiscard]] Instant deadline(WallTime wall, Instant now) const;
  [[nodiscard]] const char* deadline_reason() const;
  void timeout(Now now);

  // ---- what gRPC carries ----
  [[nodiscard]] v1::ApplyResponse apply(const v1::ApplyRequest& request, Now now);
  [[nodiscard]] std::vector<v1::DumpItem> dump() const;
  void punt(const v1::PuntFromControl& message, Now now);
  void send(const v1::Datagram& datagram);
  std::deque<v1::Event> events;
  std::deque<v1::PuntToControl> punts;
  // What a new subscriber is told first.
  [[nodiscard]] std::vector<v1::Event> standing() const;

  // ---- looking inside ----
  [[nodiscard]] std::size_t leaked() const { return buffers_.live() - slow_->held(); }
  [[nodiscard]] std::uint64_t drops(DropReason reason) const;
  [[nodiscard]] std::string describe_drops() const;
  [[nodiscard]] wireguard::Device& tunnels() { return slow_->tunnels(); }
  [[nodiscard]] std::size_t flows() const;

  std::function<void(PortIndex, Bytes)> transmit;

  // PolicySink
  void change_peers(std::span<runtime::PeerChange> changes) override;
  void publish(std::span<runtime::PolicyPublication> publications, bool wait) override;

 private:
  void settle();
  void drain_worker();
  void drain_slow();
  void report_use();

  PacketBuffers buffers_;
  Random& random_;
  Now now_;
  gateway::Configuration configuration_;
  std::uint64_t instance_;
  wireguard::PublicKey public_key_{};
  gateway::NeighbourTable neighbours_{64, 1};
  gateway::PolicyTable policies_;
  std::unique_ptr<gateway::ResendGates> resend_gates_;
  std::unique_ptr<gateway::ResendStore> resend_;
  std::unique_ptr<gateway::SlowPath> slow_;
  std::unique_ptr<wireguard::AeadContext> aead_;
  std::unique_ptr<nat::Translator> translator_;
  std::unique_ptr<gateway::Worker> worker_;
  std::unique_ptr<runtime::PolicyStore> store_;
  std::map<Endpoint, v1::Event> mapped_;
  std::deque<Packet*> to_slow_, to_worker_;
  Instant next_use_report_;
  bool settling_ = false;
};

}  // namespace penstock::model
