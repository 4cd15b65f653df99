// The running data plane as the rest of the process sees it: what dataplane/rpc and main() use. No gRPC, no DPDK.
//
// Theory of operation. The engine owns the workers, the slow thread (gateway::SlowPath: WireGuard control half,
// neighbours, timers) and the rings between them. Callers are ordinary threads: they hand commands to the slow thread
// and wait for the result, publish policy snapshots by pointer swap, and read tables and counters without ever touching
// a lock that a worker takes. Every public function may be called from any thread between start() and stop(), except
// where it says otherwise; none may be called from a worker or from the slow thread.
//
//     ports → worker ⇄ slow thread ⇄ caller        events() and punts(): slow thread → caller, bounded and counted
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/worker.h"
#include "dataplane/runtime/bounded_queue.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/packet_io.h"
#include "dataplane/runtime/policy_store.h"

namespace penstock::handover {
struct State;
}

namespace penstock::runtime {

// Something that happened in the slow path. Peers are named by key, so that an event stays true when its slot is
// used again.
struct EngineEvent {
  enum class Kind : std::uint8_t {
    session_up,              // peer, endpoint
    session_down,            // peer
    endpoint_changed,        // peer, endpoint
    mapped_address_changed,  // server, endpoint (the mapped one; port 0: no answer any more)
    translation_wanted,      // peer, address (proxy address that a packet waits for)
    translation_use,         // translations: ids that had live flows since the last such event
  };
  Kind kind = Kind::session_up;
  KeyBytes peer{};
  Endpoint endpoint;
  Endpoint server;
  IpAddress address;
  std::vector<std::string> translations;
};

// In-tunnel control (payload behind the type byte) from a peer, or a datagram of the tunnel port that is not ours to
// answer (STUN); `peer` all zero then.
struct Punt {
  KeyBytes peer{};
  Endpoint remote;
  std::vector<std::uint8_t> payload;
};

struct PeerRow {
  PeerIndex peer = kNoPeer;
  KeyBytes public_key{};
  Endpoint endpoint;  // port 0: unknown
  enum class Session : std::uint8_t { none, handshaking, up };
  Session session = Session::none;
  std::optional<Duration> handshake_age;  // nullopt: never
  std::uint64_t rx_bytes = 0, tx_bytes = 0, rx_packets = 0, tx_packets = 0;
  IpAddress tunnel_v4, tunnel_v6;
  std::uint32_t flows = 0;
  std::uint32_t authorisations = 0;
};

struct FlowRow {
  std::string protocol;     // tcp, udp, icmp
  std::string translation;  // nat44, nat66, nat64, nat46
  Endpoint inside_source, inside_destination, outside_source, outside_destination;
  std::string state;
  Duration idle{};
  Duration expires{};
  std::uint64_t packets_up = 0, packets_down = 0;
  KeyBytes peer{};
  std::string name;
  std::uint16_t worker = 0;
};

struct FlowTable {
  std::vector<FlowRow> flows;
  std::uint64_t total = 0;
  std::uint64_t capacity = 0;
};

struct PortRow {
  std::string name;
  std::string driver;
  MacAddress mac{};
  std::uint16_t mtu = 0;
  std::vector<gateway::InterfaceAddress> addresses;
  PortStats stats;
  PoolStats pool;
};

// How much of the process before lives on.
struct WarmStart {
  std::size_t peers = 0;     // that it knew
  std::size_t sessions = 0;  // taken up
  std::size_t flows = 0;
  std::size_t flows_left = 0;  // that have no place here
  Duration pause{};            // from its workers' end to the beginning of ours
};

// What stands before WireGuard's handshakes and does their costly part; sums over `threads`.
struct HandshakeInfo {
  std::size_t threads = 0;     // 0: the slow thread does them, and nothing of this is counted
  std::uint64_t answered = 0;  // initiations
  std::uint64_t from_known = 0, with_cookie = 0;  // let in at once, since their source is known, or with a cookie
  std::uint64_t cookies = 0;                      // offered
  std::size_t under_load = 0;                     // threads that ask strangers for cookies at the moment
};

struct EngineInfo {
  KeyBytes public_key{};
  std::uint16_t listen_port = 0;
  std::vector<IpAddress> tunnel_addresses;
  std::vector<IpAddress> source_addresses;
  std::vector<Prefix> own_prefixes;  // on-link prefixes of every port
  std::uint64_t instance = 0;        // random; differs after every start
  Instant started;
  nat::SiteSettings site;            // as it is now
  HandshakeInfo handshakes{};
  std::optional<WarmStart> warm;  // nullopt: started cold
};

class Engine final : public PolicySink {
 public:
  struct Parts {
    std::unique_ptr<PacketPool> pool;          // outlives the ports: stands before them
    std::vector<std::unique_ptr<Port>> ports;  // in the configuration's order
    std::unique_ptr<KernelPort> kernel;        // nullptr: no exception path
    Platform* platform = nullptr;
  };

  // A running engine needs its parts open and `config` valid; an error has the form of a configuration error.
  static std::variant<std::unique_ptr<Engine>, ConfigError> create(const Config& config, const KeyBytes& private_key,
                                                                   Parts parts);
  ~Engine() override;  // stops

  // Warm restart (docs/healing.md). The state is taken out after stop(), once; `rights` is left to the caller.
  // A process that inherits does so between create() and start(), in this order: inherit(), then the policies (so that
  // the peers become known), then inherit_flows().
  [[nodiscard]] handover::State export_state();
  void inherit(handover::State& state);
  WarmStart inherit_flows(const handover::State& state);

  void start();
  // Ends every thread, frees every packet, closes the ports. Once.
  void stop();

  // PolicySink, for PolicyStore.
  void change_peers(std::span<PeerChange> changes) override;
  void publish(std::span<PolicyPublication> publications, bool wait) override;
  void set_site(const SiteSpec& site) override;

  void set_stun_servers(std::vector<Endpoint> servers);
  // These two hand over to the slow thread and return, but wait for it when it is kSendsUnderWay behind. What it cannot
  // send is said at level debug.
  static constexpr int kSendsUnderWay = 64;
  // In-tunnel control to a peer: `payload` goes behind the type byte. Not sent: the peer is unknown, has no right to
  // control, or the payload does not fit a packet.
  void send_control(const KeyBytes& peer, Bytes payload);
  // A datagram from the tunnel port to each of `remotes`. Not sent: no source address of that family, or too long.
  void send_datagram(std::vector<Endpoint> remotes, Bytes payload);

  // What workers run with; immutable.
  [[nodiscard]] const gateway::Configuration& path() const;
  [[nodiscard]] EngineInfo info() const;
  // Sums over all workers, translators and the slow thread.
  [[nodiscard]] gateway::WorkerCounters counters() const;
  // `limit` 0: all.
  [[nodiscard]] std::vector<PeerRow> peers(std::size_t limit);
  [[nodiscard]] FlowTable flows(std::size_t limit);
  [[nodiscard]] std::vector<gateway::NeighbourView> neighbours(std::size_t limit);
  [[nodiscard]] std::vector<PortRow> ports() const;

  [[nodiscard]] BoundedQueue<EngineEvent>& events();
  [[nodiscard]] BoundedQueue<Punt>& punts();

  // Housekeeping that waits for grace periods: call about ten times a second from a thread that may block.
  void maintain();

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace penstock::runtime
