#include "tests/unit/wireguard/support.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace penstock::wireguard {

PrivateKey private_key(std::uint64_t seed) {
  SeededRandom random(seed * 7919 + 1);
  PrivateKey key;
  random.fill(key.bytes);
  return key;
}

PublicKey public_key(const PrivateKey& key) {
  return derive_public_key(key).value();
}
Endpoint endpoint(const std::string& text) {
  return Endpoint::parse(text).value();
}
Path path_to(const std::string& local, const std::string& remote) {
  return {endpoint(local), endpoint(remote), 0};
}

std::vector<std::uint8_t> inner_packet(std::size_t length, std::uint8_t tag) {
  std::vector<std::uint8_t> packet(length, tag);
  packet[0] = 0x45;
  packet[2] = static_cast<std::uint8_t>(length >> 8);
  packet[3] = static_cast<std::uint8_t>(length);
  return packet;
}

std::size_t Node::count(EventType type) const {
  return static_cast<std::size_t>(
      std::count_if(events.begin(), events.end(), [&](const Event& event) { return event.type == type; }));
}
std::size_t Node::count(DropReason reason) const {
  return static_cast<std::size_t>(std::count(drops.begin(), drops.end(), reason));
}
std::size_t Node::count_sent(MessageType type) const {
  return static_cast<std::size_t>(std::count(sent_types.begin(), sent_types.end(), static_cast<std::uint8_t>(type)));
}

Node& Network::add(const std::string& name, const std::string& address, DeviceConfig config) {
  auto node = std::make_unique<Node>();
  node->name = name;
  node->address = endpoint(address);
  node->random = std::make_unique<SeededRandom>(random_.next());
  if (config.private_key.is_zero()) config.private_key = private_key(random_.next());
  if (config.max_peers == DeviceConfig{}.max_peers) config.max_peers = 16;
  node->device = std::make_unique<Device>(config, *node->random);
  nodes_.push_back(std::move(node));
  return *nodes_.back();
}

PeerConfig Network::peer_config(const Node& of, bool with_endpoint) {
  PeerConfig config;
  config.public_key = of.device->public_key();
  if (with_endpoint) config.endpoints = {of.address};
  return config;
}

void Network::launch(const Endpoint& source, const Endpoint& destination, const std::vector<std::uint8_t>& bytes) {
  const unsigned copies = random_.below(1000) < duplicate ? 2 : 1;
  for (unsigned i = 0; i < copies; ++i) {
    if (random_.below(1000) < loss) continue;
    const auto extra =
        jitter.count() == 0 ? Duration{} : Duration(random_.next() % static_cast<std::uint64_t>(jitter.count()));
    inject(source, destination, bytes, delay + extra);
  }
}

void Network::inject(const Endpoint& source, const Endpoint& destination, std::vector<std::uint8_t> bytes,
                     Duration after) {
  flights_.insert({now_ + after, Flight{source, destination, std::move(bytes)}});
}

void Network::collect(Node& node) {
  while (auto out = node.device->poll_output()) {
    node.sent_types.push_back(out->bytes[0]);
    node.sent_at.push_back(now().monotonic);
    const bool chosen = !out->path.local.address.is_unspecified();
    launch(chosen ? out->path.local : node.address, out->path.remote, out->bytes);
  }
  while (auto event = node.device->poll_event()) node.events.push_back(*event);
}

void Network::send(Node& from, PeerIndex peer, const std::vector<std::uint8_t>& inner) {
  const DropReason reason = from.device->send(peer, inner, now());
  if (reason != DropReason::none) from.drops.push_back(reason);
  collect(from);
}

void Network::run(Duration until) {
  for (auto& node : nodes_) collect(*node);
  for (;;) {
    Duration next = until;
    if (!flights_.empty()) next = std::min(next, flights_.begin()->first);
    for (auto& node : nodes_) {
      const Deadline deadline = node->device->poll_timeout();
      if (deadline.at != kNever) next = std::min(next, std::max(now_, deadline.at - time_at({}).monotonic));
    }
    now_ = std::max(now_, next);
    bool moved = false;
    for (auto& node : nodes_) {
      if (node->device->poll_timeout().at > now().monotonic) continue;
      node->device->handle_timeout(now());
      // trap: paths-21
      ASSERT_GT(node->device->poll_timeout().at, now().monotonic) << "a fired timer was not cleared";
      collect(*node);
      moved = true;
    }
    while (!flights_.empty() && flights_.begin()->first <= now_) {
      Flight flight = std::move(flights_.begin()->second);
      flights_.erase(flights_.begin());
      moved = true;
      if (filter && !filter(flight.source, flight.destination, flight.bytes)) continue;
      for (auto& node : nodes_) {
        if (node->address != flight.destination) continue;
        const Path from{node->address, flight.source, 0};
        const auto result = node->device->handle_datagram(flight.bytes, from, now());
        if (result.reason == DropReason::none) {
          node->received.emplace_back(result.inner.begin(), result.inner.end());
        } else {
          node->drops.push_back(result.reason);
        }
        collect(*node);
      }
    }
    if (!moved && now_ >= until) return;
  }
}

}  // namespace penstock::wireguard
