// Flows that outlive the process: both directions are translated as before, and nobody is given what they have.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "dataplane/core/nat/handover.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using namespace std::chrono_literals;
using path::build_packet;
using path::Octets;
using path::World;

void furnish(World& world, Mapping mapping = Mapping::address_and_port_dependent) {
  world.config.mapping = mapping;
  for (const PeerIndex index : {1U, 2U}) {
    policy::PeerPolicy& peer = world.peers[index];
    peer.tunnel_v4 = IpAddress::v4({100, 64, 0, static_cast<std::uint8_t>(index)});
    peer.tunnel_v6 = IpAddress::parse(index == 1 ? "fd00:2021:1111::1" : "fd00:2021:1111::2").value();
    peer.authorisations = {
        {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}},
        {"corp", "corp", policy::ResourceKind::dns, {}, "**.corp.example", {}, {}}};
    policy::Translation name;
    name.id = name.name = "web6.corp.example";
    name.resource = "corp";
    name.proxy_v4 = IpAddress::parse("100.96.0.2").value();
    name.proxy_v6 = IpAddress::parse("fd00:2021:1111:8000::2").value();
    name.state = policy::TranslationState::active;
    name.real_v6 = {IpAddress::parse("2001:db8:1a::80").value()};
    peer.translations = {name};
  }
}

std::vector<FlowHandover> left_by(World& world) {
  std::vector<FlowHandover> out;
  world.translator().export_flows(world.now(), [&](const FlowHandover& flow) { out.push_back(flow); });
  return out;
}

// The next process: same configuration, same peers.
struct Next {
  explicit Next(World& before, Mapping mapping = Mapping::address_and_port_dependent) {
    furnish(world, mapping);
    world.random = path::SeededRandom{99};
    world.after(1h);
    for (const FlowHandover& flow : left_by(before)) taken += world.translator().import_flow(flow, world.now()) ? 1 : 0;
  }
  World world;
  std::size_t taken = 0;
};

Octets text(const std::string& packet) {
  return build_packet(packet).bytes;
}

std::string udp_up(int peer, int sport, int dport = 53) {
  return "ip4 src=100.64.0." + std::to_string(peer) + " dst=203.0.113.80 udp sport=" + std::to_string(sport) +
         " dport=" + std::to_string(dport) + " data=#20";
}
std::string udp_down(int dport, int sport = 53) {
  return "ip4 src=203.0.113.80 dst=203.0.113.1 udp sport=" + std::to_string(sport) + " dport=" + std::to_string(dport) +
         " data=#20";
}

TEST(FlowHandover, AnAnswerFindsItsWayBack) {
  World before;
  furnish(before);
  ASSERT_EQ(before.up(1, text(udp_up(1, 4000))).at(0).action, Action::to_outside);
  ASSERT_EQ(before.up(1, text("ip4 src=100.64.0.1 dst=100.96.0.2 udp sport=4001 dport=53 data=#20")).at(0).action,
            Action::to_outside);
  Next next(before);
  EXPECT_EQ(next.taken, 2U);
  EXPECT_EQ(next.world.translator().flow_count(), 2U);
  const auto down = next.world.down(text(udp_down(4000)));
  EXPECT_EQ(down.at(0).action, Action::to_inside);
  EXPECT_EQ(down.at(0).peer, 1U);
  // Across families: the same addresses, ports and checksum as the process before would have written.
  const Octets answer = text("ip6 src=2001:db8:1a::80 dst=2001:db8:1a::1 udp sport=53 dport=4001 data=#20");
  const auto behind = [](const Octets& bytes) { return Octets(bytes.begin() + 12, bytes.end()); };
  const auto was = before.down(answer), is = next.world.down(answer);
  ASSERT_EQ(is.at(0).action, Action::to_inside);
  EXPECT_EQ(behind(is.at(0).bytes), behind(was.at(0).bytes));
  // Nobody else's.
  EXPECT_EQ(next.world.down(text(udp_down(4002))).at(0).action, Action::not_ours);
}

TEST(FlowHandover, TcpGoesOnInItsState) {
  World before;
  furnish(before);
  const auto segment = [](const char* flags) {
    return text(std::string("ip4 src=100.64.0.1 dst=203.0.113.80 tcp flags=") + flags + " sport=4000 dport=80");
  };
  const auto back = [](const char* flags) {
    return text(std::string("ip4 src=203.0.113.80 dst=203.0.113.1 tcp flags=") + flags + " sport=80 dport=4000");
  };
  before.up(1, segment("S"));
  before.down(back("SA"));
  before.up(1, segment("A"));
  Next next(before);
  ASSERT_EQ(next.taken, 1U);
  EXPECT_EQ(left_by(next.world).at(0).state, left_by(before).at(0).state);
  EXPECT_EQ(next.world.down(back("A")).at(0).action, Action::to_inside);
  EXPECT_EQ(next.world.up(1, segment("A")).at(0).action, Action::to_outside);
  // Without the flow a segment like this begins nothing.
  World cold;
  furnish(cold);
  EXPECT_NE(cold.up(1, segment("A")).at(0).action, Action::to_outside);
  // It lives as long as an established session does, counted from when it was last used.
  next.world.after(2h);
  EXPECT_EQ(next.world.translator().flow_count(), 1U);
  next.world.after(10min);
  EXPECT_EQ(next.world.translator().flow_count(), 0U);
}

TEST(FlowHandover, TimersGoOnWhereTheyWere) {
  World before;
  furnish(before);
  before.up(1, text(udp_up(1, 4000)));
  before.after(4min);
  before.up(1, text(udp_up(1, 4001)));
  Next next(before);
  ASSERT_EQ(next.taken, 2U);
  next.world.after(62s);  // five minutes for the first
  EXPECT_EQ(next.world.translator().flow_count(), 1U);
  EXPECT_EQ(next.world.down(text(udp_down(4000))).at(0).action, Action::not_ours);
  EXPECT_EQ(next.world.down(text(udp_down(4001))).at(0).action, Action::to_inside);
}

// trap: nat-2 — a port that is in use is not given away again.
TEST(FlowHandover, PortsStayTaken) {
  World before;
  furnish(before);
  before.up(1, text(udp_up(1, 4000)));
  Next next(before);
  const auto other = next.world.up(2, text(udp_up(2, 4000)));
  ASSERT_EQ(other.at(0).action, Action::to_outside);
  const auto flows = left_by(next.world);
  ASSERT_EQ(flows.size(), 2U);
  EXPECT_NE(flows[0].source_port, flows[1].source_port);
  EXPECT_EQ(next.world.down(text(udp_down(4000))).at(0).peer, 1U);
}

// trap: flow-16 — rights that have gone meanwhile are gone for a flow that was handed over, too.
TEST(FlowHandover, TheFirstPacketIsJudgedAnew) {
  World before;
  furnish(before);
  before.up(1, text(udp_up(1, 4000)));
  Next next(before);
  next.world.peers[1].authorisations.erase(next.world.peers[1].authorisations.begin());
  next.world.changed();
  EXPECT_EQ(next.world.down(text(udp_down(4000))).at(0).action, Action::drop);
  EXPECT_EQ(next.world.translator().flow_count(), 0U);
}

TEST(FlowHandover, WhatHasNoPlaceAnyMoreIsLeft) {
  World before;
  furnish(before);
  before.up(1, text(udp_up(1, 4000)));
  const FlowHandover good = left_by(before).at(0);
  const auto fits = [](const FlowHandover& flow, auto&& change) {
    World world;
    furnish(world);
    change(world.config);
    world.after(1h);
    return world.translator().import_flow(flow, world.now());
  };
  const auto as_it_is = [](TranslatorConfig&) {};
  EXPECT_TRUE(fits(good, as_it_is));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.source_v4 = {IpAddress::v4({203, 0, 113, 2})}; }));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.first_port = 5000; }));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.reserved_udp_port = 4000; }));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.workers = 2, config.worker = 1; }));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.keep_source = true; }));
  EXPECT_FALSE(fits(good, [](TranslatorConfig& config) { config.max_peers = 1; }));
  FlowHandover bad = good;
  bad.state = 200;
  EXPECT_FALSE(fits(bad, as_it_is));
  bad = good;
  bad.idle = 6min;
  EXPECT_FALSE(fits(bad, as_it_is)) << "expired";
  bad = good;
  bad.remote = IpAddress::parse("2001:db8:1a::80").value();
  EXPECT_FALSE(fits(bad, as_it_is)) << "families do not fit";
  World world;
  furnish(world);
  world.after(1h);
  EXPECT_TRUE(world.translator().import_flow(good, world.now()));
  EXPECT_FALSE(world.translator().import_flow(good, world.now())) << "twice";
  bad = good;
  bad.inside_source_port = 4444;
  EXPECT_FALSE(world.translator().import_flow(bad, world.now())) << "another flow's port";
}

// Whatever flows there were: each is translated on both sides as the process before would have done, and the next
// generation's new flows disturb none of them.
void every_flow_goes_on(Mapping mapping) {
  World before;
  furnish(before, mapping);
  std::vector<std::pair<PeerIndex, std::string>> packets;
  for (int i = *rc::gen::inRange(1, 60); i > 0; --i) {
    const int peer = *rc::gen::inRange(1, 3);
    packets.emplace_back(peer, udp_up(peer, 4000 + *rc::gen::inRange(0, 12), 50 + *rc::gen::inRange(0, 6)));
    before.up(packets.back().first, text(packets.back().second));
    before.after(std::chrono::seconds(*rc::gen::inRange(0, 8)));
  }
  Next next(before, mapping);
  RC_ASSERT(next.taken == before.translator().flow_count());
  const auto flows = left_by(before);
  for (int i = 0; i < 10; ++i) next.world.up(2, text(udp_up(2, 4000 + i, 70)));
  for (const FlowHandover& flow : flows) {
    const Octets answer = text(udp_down(flow.source_port, flow.remote_port));
    const auto was = before.down(answer), is = next.world.down(answer);
    RC_ASSERT(is.at(0).action == Action::to_inside);
    RC_ASSERT(is.at(0).peer == was.at(0).peer);
    RC_ASSERT(is.at(0).bytes == was.at(0).bytes);
  }
}
RC_GTEST_PROP(FlowHandover, EveryFlowGoesOn, ()) {
  every_flow_goes_on(Mapping::address_and_port_dependent);
}
RC_GTEST_PROP(FlowHandover, EveryFlowGoesOnWithItsBinding, ()) {
  every_flow_goes_on(Mapping::endpoint_independent);
}

}  // namespace
}  // namespace penstock::nat
