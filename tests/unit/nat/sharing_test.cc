// Ports shared among peers (RFC 4787 §4.2, RFC 6888 REQ-4): one cannot take all, and near exhaustion nothing gets slow.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/reply_steering.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::build_packet;
using path::World;

void furnish(World& world) {
  for (const PeerIndex index : {1U, 2U, 3U}) {
    policy::PeerPolicy& peer = world.peers[index];
    peer.tunnel_v4 = IpAddress::v4(0x64400000U + index);
    peer.authorisations = {
        {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}}};
  }
  world.config.first_port = 10000;
  world.config.last_port = 10000 + 1599;
  world.config.max_flows = 8192;
}

// Whether it got through.
bool open(World& world, PeerIndex peer, int port, const std::string& to = "203.0.113.80") {
  const auto out = world.up(peer, build_packet("ip4 src=" + world.peers[peer].tunnel_v4.to_string() + " dst=" + to +
                                               " df udp dport=53 sport=" + std::to_string(port))
                                      .bytes);
  return out.size() == 1 && out[0].action == Action::to_outside;
}

// trap: nat-26
TEST(SharedPorts, OnePeerLeavesSomeForOthers) {
  World world;
  furnish(world);
  int got = 0;
  for (int n = 0; n < 1700; ++n) got += open(world, 1, 20000 + n) ? 1 : 0;
  EXPECT_GE(got, 1500) << "alone it may have nearly all";
  EXPECT_LT(got, 1560) << "but not the last sixteenth";
  for (int n = 0; n < 40; ++n) EXPECT_TRUE(open(world, 2, 20000 + n)) << n;
  EXPECT_FALSE(open(world, 1, 30000));
  EXPECT_TRUE(open(world, 1, 30000, "203.0.113.81")) << "a port in use serves another destination";
  EXPECT_TRUE(open(world, 3, 20000)) << "a newcomer still finds one";
}

TEST(SharedPorts, TwoAddressesAreFilledByTwoPeersEvenly) {
  World world;
  furnish(world);
  world.config.source_v4 = {IpAddress::v4({203, 0, 113, 1}), IpAddress::v4({203, 0, 113, 2})};
  for (int n = 0; n < 500; ++n)
    for (const PeerIndex peer : {1U, 2U, 3U}) ASSERT_TRUE(open(world, peer, 20000 + n));
  std::map<PeerIndex, std::set<IpAddress>> addresses;
  world.translator().for_each_flow(
      {}, [&](const FlowInfo& flow) { addresses[flow.peer].insert(flow.outside_source.address); });
  for (const auto& [peer, used] : addresses) EXPECT_EQ(used.size(), 1u) << "RFC 7857 §4: paired, peer " << peer;
}

// Four workers behind a NIC with four queues: whoever opens a flow, the replies come to its own queue, whether the client's
// port could be kept or not, and when ports must be shared between destinations, too.
TEST(SharedPorts, RepliesComeToTheFlowsOwner) {
  RssLayout layout;
  for (std::uint8_t i = 0; i < ReplySteering::kKeySize; ++i) layout.key.push_back(static_cast<std::uint8_t>(i * 37 + 11));
  for (std::uint16_t i = 0; i < 128; ++i) layout.queues.push_back(i % 4);
  layout.udp4 = true;
  const ReplySteering steering(layout);
  for (std::uint16_t worker = 0; worker < 4; ++worker) {
    PeerHomes homes{16};
    World world;
    furnish(world);
    world.config.workers = 4;
    world.config.worker = worker;
    world.config.homes = &homes;
    world.config.steering = &steering;
    // 400 ports are this worker's, 50 of either parity land here of what one server sends; more flows than ports, to several
    // servers, 38 of either parity to each.
    for (int n = 0; n < 300; ++n) ASSERT_TRUE(open(world, 1, 10000 + n, "203.0.113." + std::to_string(80 + n / 2 % 8)));
    for (int n = 0; n < 300; ++n) ASSERT_TRUE(open(world, 2, 10000 + n, "203.0.113." + std::to_string(80 + n / 2 % 8)));
    std::size_t flows = 0, at_home = 0;
    world.translator().for_each_flow({}, [&](const FlowInfo& flow) {
      const std::uint32_t sum = steering.without_port(flow.outside_destination.address, flow.outside_destination.port,
                                                      flow.outside_source.address);
      ++flows;
      at_home += steering.queue(steering.hash(sum, false, flow.outside_source.port)) == worker;
      EXPECT_EQ(flow.outside_source.port / 2 % 4, worker) << "the port still tells the owner";
    });
    EXPECT_EQ(flows, 600u);
    EXPECT_GE(at_home, flows * 9 / 10) << "worker " << worker;
  }
}

// A peer's home decides on the worker, except where both sides must find it by the packet alone.
TEST(SharedPorts, WhatHasNoPortsAndWhatKeepsItsPortGoesByThePacket) {
  PeerHomes homes{16};
  const auto owner = [&](bool keep_source, const std::string& transport) -> int {
    World world;
    furnish(world);
    world.config.workers = 2;
    world.config.worker = 1;
    world.config.homes = &homes;
    world.config.keep_source = keep_source;
    const auto out = world.up(1, build_packet("ip4 src=100.64.0.1 dst=203.0.113.80 df " + transport).bytes);
    return out.size() == 1 && out[0].action == Action::handover ? out[0].worker : 1;
  };
  EXPECT_EQ(owner(false, "udp sport=4000 dport=53"), 1) << "the first that is asked";
  EXPECT_EQ(owner(false, "raw protocol=132 data=#12"), 0) << "replies tell no port";
  EXPECT_EQ(owner(true, "udp sport=4000 dport=53"), 0) << "the port stays and tells";
  EXPECT_EQ(owner(true, "udp sport=4002 dport=53"), 1);
}

}  // namespace
}  // namespace penstock::nat
