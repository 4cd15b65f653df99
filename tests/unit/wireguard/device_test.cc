// Two devices and a link under virtual time: the protocol's everyday.
#include "dataplane/core/wireguard/device.h"

#include <gtest/gtest.h>

#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A (initiator, knows B's address) and B.
struct Pair {
  Network net;
  Node& a;
  Node& b;

  explicit Pair(std::uint64_t seed = 1, PeerConfig extra = {})
      : net(seed), a(net.add("a", "198.51.100.1:1000")), b(net.add("b", "203.0.113.1:2000")) {
    PeerConfig of_b = extra, of_a = extra;
    of_b.public_key = b.device->public_key();
    of_b.endpoints = {b.address};
    of_a.public_key = a.device->public_key();
    EXPECT_EQ(a.device->add_peer(of_b, net.now()).error, PeerError::none);
    EXPECT_EQ(b.device->add_peer(of_a, net.now()).error, PeerError::none);
  }
};

TEST(Device, HandshakeAndDataBothWays) {
  Pair pair;
  pair.net.send(pair.a, 0, inner_packet(100, 1));
  pair.net.run_for(seconds(1));
  ASSERT_EQ(pair.b.received.size(), 1U);
  EXPECT_EQ(pair.b.received[0], inner_packet(100, 1));
  EXPECT_EQ(pair.a.count(EventType::session_up), 1U);
  EXPECT_EQ(pair.b.count(EventType::session_up), 1U);
  pair.net.send(pair.b, 0, inner_packet(1280, 2));
  pair.net.run_for(seconds(1));
  ASSERT_EQ(pair.a.received.size(), 1U);
  EXPECT_EQ(pair.a.received[0], inner_packet(1280, 2));
  EXPECT_EQ(pair.a.count_sent(MessageType::initiation), 1U);
  EXPECT_EQ(pair.b.count_sent(MessageType::response), 1U);
}

}  // namespace
}  // namespace penstock::wireguard
