// One client, one gateway, relays and a portal in a simulated network: what the path tests run in.
//
//   198.51.100.130 client's NAT        203.0.113.7 gateway's NAT      198.51.100.20/.21 relays (STUN and TURN)
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "tests/model/network.h"
#include "tests/model/tunnel_nodes.h"

namespace penstock::model {

using namespace std::chrono_literals;

struct WorldConfig {
  std::uint64_t seed = 1;
  std::optional<NatBehaviour> client_nat;  // nullopt: a public address
  std::optional<NatBehaviour> gateway_nat;
  Duration client_latency = 5ms;  // one way, of the access link
  Duration gateway_latency = 5ms;
  Duration relay_latency = 2ms;
  Duration jitter{};
  unsigned loss_permille = 0;
  unsigned duplicate_permille = 0;
  unsigned relays = 1;
  bool relay_mobility = true;
};

class World {
 public:
  explicit World(const WorldConfig& config) : network(config.seed), client_nat(nullptr), gateway_nat(nullptr) {
    std::vector<Endpoint> servers;
    std::vector<paths::RelayConfig> relay_configs;
    for (unsigned i = 0; i < config.relays; ++i) {
      TurnServer::Config relay;
      const IpAddress address = IpAddress::v4(0xc6336414 + i);
      relay.listen = {address, 3478};
      relay.relay_v4 = address;
      relay.mobility = config.relay_mobility;
      relays.push_back(std::make_unique<RelayNode>(relay, network.random));
      network.attach(*relays.back(), address, nullptr, link(config.relay_latency, config));
      servers.push_back(relay.listen);
      std::string id{"relay"};
      id += std::to_string(i);
      relay_configs.push_back({id, {relay.listen}, "user", "secret", "", {}});
    }
    const IpAddress gateway_inside = config.gateway_nat ? address("10.9.0.7") : address("203.0.113.7");
    if (config.gateway_nat) gateway_nat = &network.add_nat(*config.gateway_nat, {address("203.0.113.7")});
    gateway = std::make_unique<TunnelGateway>(network, key(2), servers, std::vector{Endpoint{gateway_inside, 51820}});
    network.attach(*gateway, gateway_inside, gateway_nat, link(config.gateway_latency, config));
    introducer = std::make_unique<Introducer>(network, *gateway);

    const IpAddress client_inside = config.client_nat ? address("10.1.0.2") : address("198.51.100.130");
    if (config.client_nat) client_nat = &network.add_nat(*config.client_nat, {address("198.51.100.130")});
    client_link = link(config.client_latency, config);
    TunnelClient::Config client_config;
    client_config.key = key(1);
    client_config.relays = relay_configs;
    client_config.hosts = {Endpoint{client_inside, 41000}};
    client = std::make_unique<TunnelClient>(network, client_config, *introducer);
    network.attach(*client, client_inside, client_nat, client_link);
    gateway->candidates_changed = [this] { introducer->gateway_candidates(*client); };
  }

  static IpAddress address(const char* text) { return *IpAddress::parse(text); }
  static wireguard::PrivateKey key(std::uint8_t which) {
    wireguard::PrivateKey out;
    out.bytes.fill(which);
    return out;
  }
  static Link link(Duration latency, const WorldConfig& config) {
    Link out;
    out.latency = latency;
    out.jitter = config.jitter;
    out.loss_permille = config.loss_permille;
    out.duplicate_permille = config.duplicate_permille;
    return out;
  }

  // The application sends `rate` packets a second for that long.
  void run(Duration how_long, unsigned rate = 0) {
    const Instant until = network.time() + how_long;
    if (rate != 0)
      for (Instant at = network.time(); at < until; at += Duration{1s} / rate)
        network.schedule(at, [this] {
          sent_at.push_back(network.time());
          client->send(sent++, network.now());
        });
    network.run_until(until);
  }

  [[nodiscard]] bool direct() const { return client->primary() && client->primary()->relay == 0; }
  // Packets of [first, sent) that the gateway never got.
  [[nodiscard]] std::size_t lost_up(std::uint32_t first = 0) const {
    std::size_t out = 0;
    for (std::uint32_t n = first; n < sent; ++n) out += gateway->received.contains(n) ? 0 : 1;
    return out;
  }
  [[nodiscard]] std::size_t lost_echoes(std::uint32_t first = 0) const {
    std::size_t out = 0;
    for (std::uint32_t n = first; n < sent; ++n) out += client->echoed.contains(n) ? 0 : 1;
    return out;
  }
  // The longest a packet of [first, sent) took to arrive.
  [[nodiscard]] Duration longest_delay(std::uint32_t first) const {
    Duration out{};
    for (std::uint32_t n = first; n < sent; ++n) {
      const auto at = gateway->arrival.find(n);
      if (at != gateway->arrival.end()) out = std::max(out, at->second - sent_at[n]);
    }
    return out;
  }

  Network network;
  NatBox* client_nat;
  NatBox* gateway_nat;
  Link client_link;
  std::vector<std::unique_ptr<RelayNode>> relays;
  std::unique_ptr<TunnelGateway> gateway;
  std::unique_ptr<Introducer> introducer;
  std::unique_ptr<TunnelClient> client;
  std::uint32_t sent = 0;
  std::vector<Instant> sent_at;
};

}  // namespace penstock::model
