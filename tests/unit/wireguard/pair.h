// Two devices that know each other. A knows B's address and so initiates; B is told A's only when a test wants it.
#pragma once

#include <gtest/gtest.h>

#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {

struct Pair {
  Network net;
  Node& a;
  Node& b;

  explicit Pair(const PeerConfig& extra = {}, DeviceConfig config_a = {}, DeviceConfig config_b = {},
                std::uint64_t seed = 1)
      : net(seed), a(net.add("a", "198.51.100.1:1000", config_a)), b(net.add("b", "203.0.113.1:2000", config_b)) {
    EXPECT_EQ(a.device->add_peer(of(b, extra), net.now()).error, PeerError::none);
    EXPECT_EQ(b.device->add_peer(of(a, extra, false), net.now()).error, PeerError::none);
  }

  static PeerConfig of(const Node& node, PeerConfig extra = {}, bool with_endpoint = true) {
    extra.public_key = node.device->public_key();
    if (with_endpoint && extra.endpoints.empty()) extra.endpoints = {node.address};
    return extra;
  }

  // Handshake done, one packet delivered each way.
  void establish() {
    net.send(a, 0, inner_packet(60, 1));
    net.run_for(std::chrono::milliseconds(100));
    net.send(b, 0, inner_packet(60, 2));
    net.run_for(std::chrono::milliseconds(100));
    ASSERT_EQ(b.received.size(), 1U);
    ASSERT_EQ(a.received.size(), 1U);
    a.received.clear();
    b.received.clear();
  }

  // Sends one packet and says whether it arrived within a second.
  bool delivers(Node& from, Node& to) {
    const std::size_t before = to.received.size();
    net.send(from, 0, inner_packet(80, 7));
    net.run_for(std::chrono::seconds(1));
    return to.received.size() == before + 1;
  }
};

}  // namespace penstock::wireguard
