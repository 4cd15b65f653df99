// The engine with its real threads, over ports in memory: a WireGuard client on the WAN, a host on the LAN.
#pragma once

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <variant>
#include <vector>

#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/config_static.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/system_random.h"
#include "tests/unit/gateway/topology.h"
#include "tests/unit/runtime/memory_io.h"

namespace penstock::runtime::test {

using namespace gateway::test;
using namespace std::chrono_literals;

inline constexpr MacAddress kHostMac = {0x02, 0, 0, 0, 0, 0x99};
inline const IpAddress kClient = ip("198.51.100.200");
inline const IpAddress kHost = ip("203.0.113.80");
inline const IpAddress kTunnel = ip("100.64.0.2");

// Polls with a deadline far beyond what a healthy run needs.
template <typename Condition>
bool eventually(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (std::chrono::steady_clock::now() < deadline) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

struct Options {
  std::uint16_t workers = 1;
  PollMode poll = PollMode::adaptive;
  bool wakes = true;
  std::uint16_t handshake_threads = 1;
};

class World {
 public:
  explicit World(const Options& options = {}) {
    Config config;
    config.file = "FILE";
    config.path = two_armed();
    config.workers = options.workers;
    config.poll = options.poll;
    config.handshake_threads = options.handshake_threads;
    config.max_peers = 64;
    config.path.nat.max_flows = 1024;
    config.aead = "openssl";
    auto pool = std::make_unique<MemoryPool>();
    pool_ = pool.get();
    Engine::Parts parts;
    for (const MacAddress& mac : {kWanMac, kLanMac}) {
      auto port = std::make_unique<MemoryPort>(*pool, mac, options.wakes);
      ports_.push_back(port.get());
      parts.ports.push_back(std::move(port));
    }
    parts.pool = std::move(pool);
    parts.platform = &platform_;
    KeyBytes key{};
    key.fill(7);
    auto created = Engine::create(config, key, std::move(parts));
    const auto* error = std::get_if<ConfigError>(&created);
    if (error != nullptr) throw std::runtime_error(error->to_string());
    engine = std::move(std::get<std::unique_ptr<Engine>>(created));
    store = std::make_unique<PolicyStore>(*engine, config.pools, PolicyStore::Limits{}, own_addresses(engine->path()));

    wireguard::DeviceConfig device;
    device.private_key.bytes.fill(9);
    device.aead = "openssl";
    client = std::make_unique<wireguard::Device>(device, random_);
    wireguard::PeerConfig gateway;
    gateway.public_key.bytes = engine->info().public_key;
    gateway.endpoints = {{ip("198.51.100.194"), 51820}};
    gateway_ = client->add_peer(gateway, read_clock()).peer;
    engine->start();
  }

  PeerSpec peer() const {
    PeerSpec out;
    out.public_key = client->public_key().bytes;
    out.tunnel_v4 = kTunnel;
    return out;
  }
  AuthorisationSpec lan() const {
    AuthorisationSpec out;
    out.id = "a";
    out.peer = client->public_key().bytes;
    out.resource = "lan";
    out.kind = policy::ResourceKind::cidr;
    out.prefix = *Prefix::parse("203.0.113.0/24");
    return out;
  }
  PolicyStore::Result apply(std::vector<Operation> operations) {
    return store->apply({.operations = std::move(operations)}, PolicyStore::Origin::control);
  }

  void send_inner(const Octets& packet) { client->send(gateway_, packet, read_clock()); }

  // Carries frames both ways once: answers ARP on both wires, echo on the LAN, and drives the client.
  void turn() {
    const Now now = read_clock();
    if (now.monotonic >= client->poll_timeout().at) client->handle_timeout(now);
    while (auto datagram = client->poll_output())
      ports_[kWan]->arrive(
          frame(kHostMac, kWanMac, udp_packet({kClient, 40000}, datagram->path.remote, datagram->bytes)));
    while (client->poll_event()) {
    }
    for (const PortIndex port : {kWan, kLan})
      for (const Octets& sent : ports_[port]->take_sent()) handle_frame(port, sent, now);
  }
  template <typename Condition>
  bool turn_until(Condition condition) {
    return eventually([&] {
      turn();
      return condition();
    });
  }

  MemoryPlatform platform_;
  MemoryPool* pool_ = nullptr;  // the engine's
  std::vector<MemoryPort*> ports_;
  SystemRandom random_;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<PolicyStore> store;
  std::unique_ptr<wireguard::Device> client;
  PeerIndex gateway_ = kNoPeer;
  std::vector<Octets> received;     // inner packets at the client
  std::vector<Octets> lan_packets;  // IP packets at the LAN host

 private:
  void handle_frame(PortIndex port, const Octets& sent, Now now) {
    const MacAddress& mac = port == kWan ? kWanMac : kLanMac;
    if (sent[12] == 8 && sent[13] == 6) {
      if (sent[21] != 1) return;
      const IpAddress asked = IpAddress::from_wire(Bytes(sent).subspan(38, 4));
      const IpAddress sender = IpAddress::from_wire(Bytes(sent).subspan(28, 4));
      ports_[port]->arrive(ethernet(kHostMac, mac, EtherType::arp, arp(false, asked, kHostMac, sender, mac)));
      return;
    }
    if (sent[12] != 8 || sent[13] != 0) return;
    Octets packet(sent.begin() + 14, sent.end());
    const IpAddress source = IpAddress::from_wire(Bytes(packet).subspan(12, 4));
    if (port == kLan) {
      lan_packets.push_back(packet);
      if (packet[9] == ip_protocol::icmp && packet[20] == icmp4::echo)
        ports_[kLan]->arrive(frame(
            kHostMac, kLanMac,
            icmp_packet(kHost, source, icmp4::echo_reply, 0, static_cast<std::uint16_t>(packet[24] << 8 | packet[25]),
                        static_cast<std::uint16_t>(packet[26] << 8 | packet[27]),
                        Octets(packet.begin() + 28, packet.end()))));
      return;
    }
    if (packet[9] != ip_protocol::udp) return;
    MutableBytes payload = MutableBytes(packet).subspan(28);
    const auto opened = client->handle_datagram(payload, {{kClient, 40000}, {source, 51820}}, now);
    if (opened.reason == DropReason::none && !opened.inner.empty())
      received.emplace_back(opened.inner.begin(), opened.inner.end());
  }
};

}  // namespace penstock::runtime::test
