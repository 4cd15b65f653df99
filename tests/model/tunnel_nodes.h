// A client and a gateway for path simulations: the real Connectivity, StunGatherer and wireguard::Device behind the
// Node interface, with as little around them as moves numbered packets.
//
// The client does what the client agent does with Connectivity's events. The gateway does what paths.md asks of the
// data plane: answers probes where they came from, moves the endpoint on a higher switch_sequence, punches to
// candidates (bounded), watches its own mapping by the STUN tick and its peers by a silence timer, and then speaks to
// every address it knows of a peer. The Introducer stands for the portal: it carries requests and candidates, with
// latency, and can be away.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "controlplane/core/paths/connectivity.h"
#include "controlplane/core/paths/stun_gatherer.h"
#include "dataplane/core/wireguard/device.h"
#include "tests/model/network.h"

namespace penstock::model {

// An inner packet: IPv4, 28 bytes, with a number. `number` of what is no such packet: nullopt.
[[nodiscard]] std::vector<std::uint8_t> make_packet(std::uint32_t number, bool echo);
[[nodiscard]] std::optional<std::uint32_t> packet_number(Bytes inner, bool echo);
// Seals one inner packet; nullopt without a session.
[[nodiscard]] std::optional<std::vector<std::uint8_t>> seal_packet(wireguard::Device& device, PeerIndex peer,
                                                                   Bytes inner, Now now);

// Of both nodes: the socket of the remote's family, and what their Devices are made from.
[[nodiscard]] Endpoint socket_of(const Endpoint& remote, const Endpoint& four, const Endpoint& six);
[[nodiscard]] wireguard::DeviceConfig device_config(const wireguard::PrivateKey& key);

class TunnelGateway : public Node {
 public:
  TunnelGateway(Network& network, const wireguard::PrivateKey& key, std::vector<Endpoint> stun_servers,
                std::vector<Endpoint> hosts);

  void receive(Datagram datagram, Now now) override;
  [[nodiscard]] Instant deadline() const override;
  void timeout(Now now) override;

  // From the portal: the peer may come, these are its addresses. Idempotent.
  void authorize(const wireguard::PublicKey& client, const std::vector<paths::Candidate>& candidates, Now now);
  [[nodiscard]] std::vector<paths::Candidate> candidates(Now now) const;
  [[nodiscard]] const wireguard::PublicKey& key() const { return device_.public_key(); }
  // The data plane starts anew: every session and every known address is gone; authorisations come back.
  void restart(Now now);

  std::function<void()> candidates_changed;
  std::set<std::uint32_t> received;          // numbers of packets that arrived, of all clients
  std::map<std::uint32_t, Instant> arrival;  // first arrival
  std::uint64_t duplicates = 0;
  bool echoes = true;

 private:
  struct Peer {
    wireguard::PublicKey key;
    PeerIndex index = kNoPeer;
    std::vector<paths::Candidate> candidates;
    std::deque<Endpoint> seen;  // where authenticated packets came from
    std::uint32_t switch_sequence = 0;
    unsigned punches = 0;  // rounds so far
    Instant next_punch = kNever;
    Instant last_heard{};
    Instant last_data{};
    Duration silence{};  // that is too long for it now
    unsigned calls = 0;  // keepalives to everywhere, since it was last heard
    Instant next_call = kNever;
  };
  void drain(Now now);
  void punch(Peer& peer, Now now);
  void call_everywhere(Peer& peer, Now now);
  void heard(Peer& peer, const Endpoint& from, bool is_data, Now now);
  Peer* find(PeerIndex index);

  Network& network_;
  wireguard::PrivateKey private_key_;
  std::vector<Endpoint> stun_servers_;
  std::vector<Endpoint> hosts_;
  wireguard::Device device_holder_;
  wireguard::Device& device_ = device_holder_;
  paths::StunGatherer gatherer_;
  std::vector<Peer> peers_;
  std::vector<paths::Candidate> told_;
};

class Introducer;

class TunnelClient : public Node {
 public:
  struct Config {
    wireguard::PrivateKey key;
    std::vector<paths::RelayConfig> relays;
    std::vector<Endpoint> hosts;
    bool v6 = false;  // has an IPv6 socket
  };
  TunnelClient(Network& network, const Config& config, Introducer& introducer);

  void receive(Datagram datagram, Now now) override;
  void unreachable(const Endpoint& remote, Bytes quoted, Now now) override;
  [[nodiscard]] Instant deadline() const override;
  void timeout(Now now) override;
  [[nodiscard]] std::string deadline_reason() const override {
    return std::string{"client: "} + std::string{connectivity.poll_timeout().why};
  }

  // The application sends packet number `number`.
  void send(std::uint32_t number, Now now);
  void granted(const wireguard::PublicKey& gateway, const std::vector<paths::Candidate>& candidates, Now now);
  void trickled(const std::vector<paths::Candidate>& candidates, Now now);
  void roam(std::vector<Endpoint> hosts, Now now);
  [[nodiscard]] const wireguard::PublicKey& key() const { return device_.public_key(); }
  [[nodiscard]] std::optional<Path> primary() const { return connectivity.primary(kGateway); }
  [[nodiscard]] bool session() const { return session_; }
  void gateway_restarted() { /* learnt by silence */
  }

  static constexpr paths::GatewayHandle kGateway = 0;
  paths::Connectivity connectivity;
  std::set<std::uint32_t> echoed;
  std::map<std::uint32_t, Instant> echo_arrival;
  std::uint64_t requests = 0;
  std::uint64_t unreachable_events = 0;
  std::vector<std::pair<Instant, Path>> changes;

 private:
  void drain(Now now);
  void transmit(const Path& path, Bytes datagram);
  void send_sealed(std::uint32_t number, Now now);
  void request(Now now);

  Network& network_;
  Config config_;
  Introducer& introducer_;
  wireguard::Device device_;
  std::optional<PeerIndex> peer_;
  bool session_ = false;
  bool must_request_ = true;  // no authorisation yet, or the gateway was unreachable
  std::deque<std::uint32_t> waiting_;
  Instant last_request_ = Instant::min();
};

// The portal as far as paths are concerned.
class Introducer {
 public:
  Introducer(Network& network, TunnelGateway& gateway) : network_(network), gateway_(gateway) {}
  void request(TunnelClient& client);
  void client_candidates(TunnelClient& client);
  void gateway_candidates(TunnelClient& client);

  Duration latency = std::chrono::milliseconds{15};
  bool up = true;

 private:
  Network& network_;
  TunnelGateway& gateway_;
};

}  // namespace penstock::model
