// A TurnClient, a model of its relay, and the wire between the two, under virtual time.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "controlplane/core/paths/turn_client.h"
#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::paths {

using model::Datagram;
using model::SeededRandom;
using model::TurnServer;
using namespace std::chrono_literals;

inline Endpoint endpoint(const char* text) {
  return *Endpoint::parse(text);
}
inline IpAddress address(const char* text) {
  return *IpAddress::parse(text);
}

inline const Endpoint kServer = endpoint("198.51.100.20:3478");
inline const Endpoint kClient = endpoint("198.51.100.130:40000");
inline const Endpoint kPeer = endpoint("203.0.113.7:51820");

// One client, one relay, one peer, a wire with 10 ms each way at first and a switch.
class TurnClientTest : public ::testing::Test {
 protected:
  TurnClientTest() { make_server(); }

  void make_server() {
    TurnServer::Config config;
    config.listen = kServer;
    config.relay_v4 = address("198.51.100.20");
    config.relay_v6 = address("2001:db8:20::20");
    server = std::make_unique<TurnServer>(config, random);
  }
  TurnClient& make_client(TurnConfig config = {}) {
    config.server = kServer;
    if (config.credentials.username.empty()) config.credentials = {"user", "secret", ""};
    client = std::make_unique<TurnClient>(config, random, numbers);
    return *client;
  }
  Instant now() const { return now_; }

  void drain_client() {
    while (auto bytes = client->poll_output()) {
      ++sent;
      sent_bytes.push_back(*bytes);
      if (client_to_server) wire.push_back({now_ + latency, {client_address, kServer, std::move(*bytes)}});
    }
    while (auto event = client->poll_event()) events.push_back(*event);
  }

  // Runs the network until `until`, calling timeouts when they are due.
  void run(Duration how_long) {
    const Instant until = now_ + how_long;
    drain_client();
    for (;;) {
      Instant next = std::min(until, client->poll_timeout().at);
      for (const auto& flying : wire) next = std::min(next, flying.at);
      now_ = std::max(now_, next);
      std::deque<Datagram> arrived;
      for (std::size_t i = 0; i < wire.size();) {
        if (wire[i].at > now_) {
          ++i;
          continue;
        }
        arrived.push_back(std::move(wire[i].datagram));
        wire.erase(wire.begin() + static_cast<std::ptrdiff_t>(i));
      }
      for (auto& datagram : arrived) deliver(datagram);
      if (now_ >= client->poll_timeout().at) {
        client->handle_timeout(now_);
        // trap: paths-21 - a timer that fired is gone
        EXPECT_GT(client->poll_timeout().at, now_) << client->poll_timeout().why;
      }
      drain_client();
      if (now_ >= until) return;
    }
  }

  void deliver(const Datagram& datagram) {
    if (server->owns(datagram.to.address)) {
      std::deque<Datagram> out;
      server->handle(datagram, now_, out);
      for (auto& reply : out) {
        if (reply.to.address == client_address.address && !server_to_client) continue;
        wire.push_back({now_ + latency, std::move(reply)});
      }
    } else if (datagram.to == client_address) {
      const auto input = client->handle_input(datagram.bytes, now_);
      last_reason = input.reason;
      if (input.reason == DropReason::none) {
        received.emplace_back(input.peer, std::vector<std::uint8_t>{input.payload.begin(), input.payload.end()});
        by_channel.push_back(input.channel);
      }
      drain_client();
    } else {
      at_peer.push_back(datagram);
    }
  }

  bool send_to_peer(const Endpoint& peer, std::vector<std::uint8_t> payload) {
    const auto wrapping = client->wrap(peer, payload.size(), now_);
    if (!wrapping) return false;
    std::vector<std::uint8_t> bytes{wrapping->prefix.begin(), wrapping->prefix.begin() + wrapping->prefix_size};
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    bytes.resize(bytes.size() + wrapping->padding);
    wire.push_back({now_ + latency, {client_address, kServer, std::move(bytes)}});
    return true;
  }
  void send_from_peer(const Endpoint& peer, std::vector<std::uint8_t> payload) {
    wire.push_back({now_ + latency, {peer, client->relayed(), std::move(payload)}});
  }
  std::size_t count(TurnEvent::Kind kind) const {
    return static_cast<std::size_t>(
        std::count_if(events.begin(), events.end(), [&](const TurnEvent& e) { return e.kind == kind; }));
  }

  struct Flying {
    Instant at;
    Datagram datagram;
  };
  SeededRandom random{7};
  std::uint32_t numbers = 0;
  Instant now_{1h};
  std::unique_ptr<TurnServer> server;
  std::unique_ptr<TurnClient> client;
  Endpoint client_address = kClient;
  std::deque<Flying> wire;
  Duration latency = 10ms;
  bool client_to_server = true;
  bool server_to_client = true;
  std::size_t sent = 0;
  std::vector<std::vector<std::uint8_t>> sent_bytes;
  std::vector<TurnEvent> events;
  std::vector<std::pair<Endpoint, std::vector<std::uint8_t>>> received;
  std::vector<bool> by_channel;
  std::vector<Datagram> at_peer;
  DropReason last_reason = DropReason::none;
};

}  // namespace penstock::paths
