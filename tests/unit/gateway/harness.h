// A whole gateway in memory under virtual time: workers, slow path, tables; hosts on its ports; WireGuard clients.
//
// Frames that leave a port are put into the port's segment, where hosts answer ARP and ND and keep what they are sent.
// Nothing is dropped silently: every packet ends as a frame, in a list of the test, or counted and freed, and
// `gateway.packets.live()` must be back at what is held.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "dataplane/core/nat/translator.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/graph.h"
#include "dataplane/gateway/messages.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/pipeline.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/slow_path.h"
#include "tests/unit/gateway/buffers.h"
#include "tests/unit/gateway/builder.h"
#include "tests/unit/gateway/topology.h"

namespace penstock::gateway::test {

using namespace std::chrono_literals;

struct GatewayOptions {
  ConfigurationDescription description = two_armed();
  std::uint16_t workers = 1;
  SlowPathLimits limits{};
  std::uint32_t max_flows = 1024;
  std::size_t resend_blocks = 64;
};

// A station: answers ARP and ND for its addresses, and echo when `echoes`.
struct Host {
  MacAddress mac{};
  std::vector<IpAddress> addresses;
  bool answers_neighbours = true;
  bool echoes = true;
  std::vector<Octets> received;  // IP packets to it, echo requests included
};

class Gateway;

// Somebody on the network who sees packets and time. The latest to come is asked first.
class Listener {
 public:
  explicit Listener(Gateway& gateway);
  virtual ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  // An IP packet that left a port; true: taken.
  virtual bool take(PortIndex, const Octets&) { return false; }
  // Time has moved. Returns when it wants to know again.
  virtual Instant on_time(Now) { return kNever; }

 protected:
  Gateway& gateway_;
};

class Gateway {
 public:
  explicit Gateway(const GatewayOptions& options = {});
  ~Gateway();

  // --- time
  [[nodiscard]] Now now() const { return now_; }
  // Lets timers of gateway and clients fire in order until the time has passed.
  void run(Duration time);
  // Somebody sets the wall clock.
  void step_wall_clock(std::int64_t seconds) { now_.wall.seconds += static_cast<std::uint64_t>(seconds); }
  // --- frames
  // A frame arrives at a port, on the worker's queue, and everything that follows from it happens.
  void receive(PortIndex port, const Octets& frame, std::uint16_t worker = 0);
  void receive(PortIndex port, const std::vector<Octets>& frames, std::uint16_t worker = 0);
  // The same in bursts of so many, by a worker which others help (pipeline.h).
  void receive_together(PortIndex port, const std::vector<Octets>& frames, std::size_t burst_size,
                        wireguard::AeadOffers& offers);
  // An IP packet from a host on the port's segment, sent to the gateway's MAC address.
  void receive_from(const Host& host, PortIndex port, const Octets& packet, std::uint16_t worker = 0);
  Host& add_host(PortIndex port, const MacAddress& mac, std::vector<IpAddress> addresses);
  // Every frame that left a port, in order.
  std::array<std::vector<Octets>, 2> sent;
  std::vector<Octets> to_kernel;
  void from_kernel(const Octets& frame);

  // --- what the control process does
  std::uint32_t next_epoch = 1;
  PeerIndex add_peer(const wireguard::PeerConfig& config);
  void publish(std::unique_ptr<policy::PeerPolicy> policy);
  struct Punted {
    PeerIndex peer;
    Path outer;
    Octets payload;
  };
  std::vector<Punted> punted;
  std::vector<SlowEvent> events;

  [[nodiscard]] std::uint64_t drops(DropReason reason) const;
  [[nodiscard]] std::uint64_t all_drops() const;
  [[nodiscard]] std::string describe_drops() const;
  void settle();  // until no packet is under way

  HeapPackets packets;
  SeededRandom random{42};
  Configuration configuration;
  wireguard::PublicKey public_key{};
  NeighbourTable neighbours;
  PolicyTable policies{64};
  std::unique_ptr<SlowPath> slow;
  std::vector<std::unique_ptr<Worker>> workers;

  std::vector<Listener*> listeners;
  ResendGates resend_gates{64};
  std::vector<std::unique_ptr<ResendStore>> resend;  // per worker
  std::size_t resend_orders = 0;                     // given by the slow thread

 private:
  void drain(Worker& worker);
  void drain_slow();
  Instant tell_time();
  void deliver(PortIndex port, const Octets& frame);
  void answer(PortIndex port, Host& host, const Octets& frame);

  Now now_{Instant{1h}, {1'700'000'000, 0}};
  std::vector<std::unique_ptr<wireguard::AeadContext>> aead_;
  std::vector<std::unique_ptr<nat::Translator>> translators_;
  std::vector<std::unique_ptr<policy::PeerPolicy>> published_;
  std::array<std::vector<std::unique_ptr<Host>>, 2> hosts_;
  std::deque<std::function<void()>> pending_;
  bool settling_ = false;
};

// The same for the same seed.
wireguard::PrivateKey private_key(std::uint64_t seed);

// A WireGuard client somewhere on the WAN (client.cc).
class Client final : public Listener {
 public:
  Client(Gateway& gateway, const Endpoint& address, std::uint64_t seed, bool control = true);

  PeerIndex peer = kNoPeer;
  IpAddress tunnel_v4;
  IpAddress tunnel_v6;
  Endpoint address;
  Endpoint gateway_address;

  // Policy with `lan` (203.0.113.0/24 and 2001:db8:1a::/64) and the given names.
  std::unique_ptr<policy::PeerPolicy> policy() const;

  void send(const Octets& inner);  // seals and sends, or starts a handshake and sends afterwards
  void send_from(const Endpoint& from, const Octets& inner);
  Octets seal(const Octets& inner);  // one datagram (UDP payload); a session must be up
  void send_datagram(const Endpoint& from, const Octets& payload, std::uint16_t worker = 0, std::uint8_t tos = 0);
  void connect();  // until a session is up
  bool try_connect();
  std::vector<Octets> received;  // inner packets
  std::vector<Endpoint> received_from;
  std::size_t keepalives = 0;
  std::vector<Octets> datagrams;         // UDP payloads from the gateway to any of our addresses, before opening
  std::vector<Endpoint> dead;            // of our addresses: what is sent there is lost on the way
  std::function<bool(Bytes)> loses;      // which of these datagrams are lost as well
  std::vector<Endpoint> more_addresses;  // further addresses at which datagrams reach us

  [[nodiscard]] wireguard::Device& device() { return *device_; }
  [[nodiscard]] wireguard::ReceptionReport reception() const;
  bool take(PortIndex port, const Octets& packet) override;
  Instant on_time(Now now) override;

 private:
  void flush();
  SeededRandom random_;
  std::unique_ptr<wireguard::Device> device_;
  PeerIndex there_ = kNoPeer;
};

}  // namespace penstock::gateway::test
