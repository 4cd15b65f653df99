// Everything of the data plane that is too slow, too rare or too stateful for a worker, as one sans-IO object:
// WireGuard handshakes and timers, neighbours, the STUN tick, probes, path keepalives, packets that wait for something.
//
// One thread (the slow thread) calls it. Its loop:
//
//     handle(packets from workers, now)         everything of Outputs::handshake and Outputs::slow
//     commands (peers, policies, datagrams …)   from the main thread through a queue of the runtime
//     if (now >= poll_timeout().at) handle_timeout(now)
//     drain output() (SlowOutput says where each goes) and poll_event()
//     sleep until poll_timeout().at or input
//
// Nothing here depends on another process: tunnels live, heal and answer probes while the control process is away.
// Every queue is bounded; what does not fit is dropped with a reason and counted in drops().
// Workers read `neighbours()` and `tunnels()`; both live as long as this object. Policies are read from the PolicyTable
// that the main thread publishes to, so this thread is an RCU reader: quiescent when handle/handle_timeout have
// returned.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/worker.h"

namespace penstock::wireguard {
class Device;
struct DeviceConfig;
struct InitiationWork;
struct PeerConfig;
}  // namespace penstock::wireguard

namespace penstock::handover {
struct Peer;
struct State;
}  // namespace penstock::handover

namespace penstock::gateway {

using PeerKey = std::array<std::uint8_t, 32>;  // public key: what the control process calls a peer

// What the control process is told.
struct SessionUp {
  PeerIndex peer;
  PeerKey key;
  Endpoint endpoint;
};
struct SessionDown {
  PeerIndex peer;
  PeerKey key;
};
struct EndpointChanged {
  PeerIndex peer;
  PeerKey key;
  Endpoint endpoint;
};
// `mapped` unspecified with port 0: the server does not answer any more.
struct MappedAddressChanged {
  Endpoint server;
  Endpoint mapped;
};
// A packet waits for this proxy address (or was refused for lack of it).
struct TranslationWanted {
  PeerIndex peer;
  PeerKey key;
  IpAddress proxy_address;
};
using SlowEvent = std::variant<SessionUp, SessionDown, EndpointChanged, MappedAddressChanged, TranslationWanted>;

struct SlowDeadline {
  Instant at = kNever;
  const char* why = "nothing is due";
};

// Where packets of this thread go; whoever runs it drains the vectors and clears them.
struct SlowOutput {
  std::vector<Packet*> to_workers;  // kind_of<ToWorker>; ring of worker `rss_worker`
  std::vector<Packet*> punt;        // control process: in-tunnel control (peer != kNoPeer; data at the protobuf) or a
                                    // STUN datagram (peer == kNoPeer); `outer` set
  std::vector<Packet*> freed;
};

struct SlowPathLimits {
  std::size_t neighbour_wait_packets = 64;  // per neighbour
  std::size_t neighbour_wait_total = 1024;
  std::size_t session_wait_packets = 32;  // per peer
  std::size_t session_wait_total = 4096;
  std::size_t name_wait_packets = 32;  // per name (paths.md "First packet" 5)
  std::size_t name_wait_bytes = 64 * 1024;
  std::size_t name_wait_per_peer = 256;
  std::size_t name_wait_total = 8192;
  std::uint32_t control_per_second = 64;  // in-tunnel control messages per peer, probes not counted
  std::uint32_t control_burst = 128;
  std::uint16_t workers = 1;  // that there are
};

class SlowPath {
 public:
  // `configuration`, `policies`, `packets` and `random` outlive the object.
  SlowPath(const Configuration& configuration, const wireguard::DeviceConfig& device, const PolicyTable& policies,
           NeighbourTable& neighbours, PacketSource& packets, Random& random, Now now,
           const SlowPathLimits& limits = {});
  ~SlowPath();
  SlowPath(const SlowPath&) = delete;
  SlowPath& operator=(const SlowPath&) = delete;

  // Packets from workers. Takes them all.
  void handle(std::span<Packet* const> packets, Now now);
  // From a handshake thread: claims or finishes, according to work.stage, and moves that on.
  void handle_initiation(wireguard::InitiationWork& work, Now now);

  // The peer with this public key, made or changed; an unchanged one is left alone (its session does not notice).
  // nullopt: the table of peers is full or the key is refused.
  std::optional<PeerIndex> upsert_peer(const wireguard::PeerConfig& peer, Now now);
  // Ends its session and frees what waits for it. False: unknown.
  bool remove_peer(const PeerKey& key, Now now);
  [[nodiscard]] std::optional<PeerIndex> find_peer(const PeerKey& key) const;
  // The PolicyTable has a new snapshot for the peer: packets that wait for its names go on, or are answered.
  void policy_published(PeerIndex peer, Now now);
  // Servers of the STUN tick (at most 8 are used). Unspecified and forbidden addresses are left out.
  void set_stun_servers(std::span<const Endpoint> servers, Now now);
  // From the tunnel's own port. Payload at most 1200 bytes. none: on its way.
  DropReason send_datagram(const Endpoint& remote, Bytes payload, Now now);
  // `payload`: a serialized penstock.v1.Control. Peers whose policy does not say `control` never get one.
  DropReason send_control(PeerIndex peer, Bytes payload, Now now);

  // Hand-over (core/handover/state.h). What the next process goes on with: peers in the order of their slots and, per
  // slot, their position among them (kNoPeer: no peer), and neighbours. No thread runs.
  [[nodiscard]] std::vector<PeerIndex> export_state(handover::State& to) const;
  // The peers and neighbours of the process before. Peers are taken up as upsert_peer names them; forget_inherited()
  // ends that. Before any thread runs. `ports`: of its port numbers ours; kNoPort: gone.
  void inherit(handover::State& from, std::span<const PortIndex> ports, Now now);
  // How many sessions were taken up.
  std::size_t forget_inherited();

  [[nodiscard]] SlowOutput& output();
  std::optional<SlowEvent> poll_event();
  [[nodiscard]] SlowDeadline poll_timeout() const;
  void handle_timeout(Now now);

  [[nodiscard]] wireguard::Device& tunnels();
  [[nodiscard]] const std::array<std::uint64_t, kDropReasonCount>& drops() const;
  // Packets that are held in some queue; 0 when nothing waits (pool accounting).
  [[nodiscard]] std::size_t held() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace penstock::gateway
