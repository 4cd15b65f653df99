// A whole gateway in memory for measurements: the product's worker loops, packet path, WireGuard device, policies and
// translators, with ports in memory (memory_io.h) and the network of flows.h around it.
//
// One thread sets up and lays packets ready; worker w's loop is turned by whoever measures (the same thread, or one
// thread per worker), by step(w). Everything is on that the product has on. The clock is the real one, so sessions age:
// `connect` again (all peers) before they are 120 s old.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/worker.h"
#include "dataplane/runtime/aead_share.h"
#include "dataplane/runtime/links.h"
#include "dataplane/runtime/system_random.h"
#include "dataplane/runtime/worker_loop.h"
#include "perf/harness/flows.h"
#include "perf/harness/memory_io.h"

namespace penstock::perf {

// Before a WireGuard message on the wire.
inline constexpr std::size_t kOuterSize = sizeof(EthernetHeader) + sizeof(Ipv4Header) + sizeof(UdpHeader);

struct Shape {
  std::uint16_t workers = 1;
  std::uint32_t peers = 16;
  std::uint32_t flows = 1000;
  Families families{};
  std::uint16_t inner_mtu = 1420;
  std::string aead = "auto";
  std::size_t buffers = 1 << 16;   // per worker
  std::uint16_t largest = 1420;    // inner packet that buffers must hold
  std::uint32_t configured_peers = 0;  // WireGuard peers and policies; 0: `peers`. Only `peers` of them have sessions
};

// The client's half of a session; what it sends is sealed with it.
struct ClientSession {
  std::array<std::uint8_t, 32> send_key{};
  std::array<std::uint8_t, 32> receive_key{};
  std::uint32_t local_index = 0;
  std::uint32_t remote_index = 0;
  std::uint64_t counter = 0;  // next to send
};

// Counts and times what goes through a backend.
class CountedAead final : public wireguard::AeadContext {
 public:
  explicit CountedAead(std::unique_ptr<wireguard::AeadContext> inner) : inner_(std::move(inner)) {}
  void seal(std::span<wireguard::AeadJob> jobs) override;
  void open(std::span<wireguard::AeadJob> jobs) override;
  [[nodiscard]] std::string_view name() const override { return inner_->name(); }

  std::uint64_t cycles = 0;
  std::uint64_t jobs = 0;
  std::uint64_t calls = 0;

 private:
  std::unique_ptr<wireguard::AeadContext> inner_;
};

// A packet that was laid ready.
struct Sent {
  Flow flow;
  std::uint16_t size = 0;  // inner
};

class BenchGateway {
 public:
  // Ends the process with a message when something cannot be had.
  explicit BenchGateway(const Shape& shape);
  ~BenchGateway();

  // New sessions for peers [0, shape.peers).
  void connect();
  // Every flow of [0, shape.flows) gets its first packets, through the worker loop; ports() knows them afterwards.
  void open_flows();

  // The worker that a flow's packets should arrive at, as a NIC's RSS would have it.
  [[nodiscard]] std::uint16_t home_of(const Flow& flow, bool up) const;

  // Frames for worker `w`, laid out in its buffers: nullptr when there is none left.
  // `number` is the payload's. Up frames are not sealed yet: pass them to seal() in bursts.
  Packet* frame_from_client(std::uint16_t worker, const Flow& flow, std::uint16_t size, std::uint32_t number,
                            std::uint8_t tcp_flags, wireguard::AeadJob& job);
  Packet* frame_from_server(std::uint16_t worker, const Flow& flow, std::uint16_t size, std::uint32_t number,
                            std::uint8_t tcp_flags);
  void seal(std::span<wireguard::AeadJob> jobs) { sealer_->seal(jobs); }

  // Turns worker w's loop once.
  bool step(std::uint16_t worker) { return workers_[worker]->loop->step(); }
  // Until nothing is left to receive. Frees what went to the slow thread (notes), which is dealt with.
  void run_until_idle();
  // Takes what workers told the slow thread.
  void take_notes();
  // Gives every sent frame back to its worker's pool.
  void free_sent();

  // Checks a frame that left a port; empty: right. `expected(number)` says what was sent with that number in its
  // payload (nullptr: nothing was). The tunnel's frames are decrypted, in place, by OpenSSL.
  using Expected = std::function<const Sent*(std::uint32_t)>;
  [[nodiscard]] std::string check_lan_frame(const Expected& expected, Bytes frame) const;
  [[nodiscard]] std::string check_wan_frame(const Expected& expected, MutableBytes frame);
  [[nodiscard]] std::uint64_t drops() const;
  [[nodiscard]] std::string describe_drops() const;

  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] gateway::Worker& worker(std::uint16_t w) { return workers_[w]->worker; }
  [[nodiscard]] nat::Translator& translator(std::uint16_t w) { return *workers_[w]->translator; }
  [[nodiscard]] CountedAead& aead(std::uint16_t w) { return *workers_[w]->aead; }
  [[nodiscard]] MemoryPort& port(PortIndex port) { return *ports_[port]; }
  [[nodiscard]] MemoryPool& pool(std::uint16_t w) { return *workers_[w]->pool; }
  [[nodiscard]] wireguard::Device& device() { return *device_; }
  [[nodiscard]] const gateway::PolicyTable& policies() const { return policies_; }
  [[nodiscard]] ClientSession& session(std::uint32_t peer) { return sessions_[peer]; }
  [[nodiscard]] PeerIndex peer(std::uint32_t number) const { return peers_[number]; }
  [[nodiscard]] std::uint16_t translated_port(std::uint32_t flow) const { return translated_ports_[flow]; }

 private:
  struct WorkerSet {
    std::unique_ptr<MemoryPool> pool;
    std::unique_ptr<CountedAead> aead;
    std::unique_ptr<runtime::SharedAead> shared_aead;
    std::unique_ptr<nat::Translator> translator;
    gateway::Worker worker;
    std::unique_ptr<runtime::WorkerLoop> loop;
  };
  struct NoPlatform final : runtime::Platform {
    void enter_thread() override {}
    void leave_thread() override {}
  };

  void add_neighbours();
  void add_peers();
  void connect(std::uint32_t peer);
  void send_first_packets(std::uint32_t first, std::uint32_t end, bool up, std::uint8_t tcp_flags);

  Shape shape_;
  runtime::SystemRandom random_;
  gateway::Configuration configuration_;
  gateway::NeighbourTable neighbours_;
  gateway::PolicyTable policies_;
  NoPlatform platform_;
  runtime::Links links_;
  nat::PeerHomes homes_;
  runtime::AeadShare aead_share_;
  std::unique_ptr<wireguard::Device> device_;
  wireguard::PublicKey public_key_{};
  std::vector<wireguard::PrivateKey> client_keys_;
  std::vector<PeerIndex> peers_;
  std::vector<ClientSession> sessions_;
  std::unordered_map<std::uint32_t, std::uint32_t> peer_of_index_;  // client's index -> peer
  std::vector<std::uint16_t> translated_ports_;
  std::vector<std::unique_ptr<policy::PeerPolicy>> published_;
  std::unique_ptr<wireguard::AeadContext> sealer_;
  std::unique_ptr<wireguard::AeadContext> opener_;
  std::array<std::unique_ptr<MemoryPort>, 2> ports_;
  std::vector<std::unique_ptr<WorkerSet>> workers_;
};

}  // namespace penstock::perf
