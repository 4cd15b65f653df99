// First packets: the short way of a burst (first.cc) comes to what the whole way comes to, packet by packet. A byte of
// padding behind a packet keeps it from the short way and is cut off by the whole one.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/packet/headers.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::Octets;
using path::World;

// No two names share an address, so that every flow keeps its port.
IpAddress server4(std::uint8_t n) {
  return IpAddress::v4({203, 0, 113, n});
}
IpAddress server6(unsigned n) {
  return IpAddress::parse("2001:db8:1a::" + std::to_string(n)).value();
}

policy::Translation name(unsigned n, policy::TranslationState state, std::vector<IpAddress> v4,
                         std::vector<IpAddress> v6) {
  policy::Translation out;
  out.id = out.name = "n" + std::to_string(n) + ".example";
  out.resource = "names";
  out.proxy_v4 = IpAddress::v4(0x64600000U + n);
  out.proxy_v6 = IpAddress::parse("fd00:2021:1111:8000::" + std::to_string(n)).value();
  out.state = state;
  out.real_v4 = std::move(v4);
  out.real_v6 = std::move(v6);
  return out;
}

void furnish(World& world) {
  using enum policy::TranslationState;
  for (const PeerIndex index : {1U, 2U}) {
    policy::PeerPolicy& peer = world.peers[index];
    peer.tunnel_v4 = IpAddress::v4(0x64400000U + index);
    peer.tunnel_v6 = IpAddress::parse("fd00:2021:1111::" + std::to_string(index)).value();
    peer.authorisations = {
        {"names", "names", policy::ResourceKind::dns, {}, "*.example", {}, {}},
        {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}}};
    peer.authorisations[0].expires = WallTime{1000000 + 3600, 0};
    if (index == 2) peer.authorisations[0].filter = {false, false, {{443, 443}}, {}};
    peer.translations = {name(1, active, {server4(81)}, {}),
                         name(2, active, {}, {server6(82)}),
                         name(3, active, {server4(83), server4(84)}, {}),
                         name(4, active, {server4(85)}, {server6(85)}),
                         name(5, resolving, {}, {}),
                         name(6, no_such_name, {}, {}),
                         name(7, active, {IpAddress::v4({127, 0, 0, 1})}, {}),
                         name(8, active, {}, {IpAddress::parse("64:ff9b::cb00:7158").value()})};
  }
  world.config.mtu_outside = 1400;
  world.config.max_flows_per_peer = 24;
}

Octets any_packet(PeerIndex peer) {
  const bool six = *rc::gen::arbitrary<bool>();
  const auto number = *rc::gen::inRange(1, 11);
  std::string source = six ? "fd00:2021:1111::" + std::to_string(peer) : "100.64.0." + std::to_string(peer);
  if (*rc::gen::inRange(0, 20) == 0) source = six ? "fd00:2021:1111::77" : "100.64.0.77";
  std::string to = six ? "fd00:2021:1111:8000::" + std::to_string(number) : "100.96.0." + std::to_string(number);
  if (number == 10) to = six ? "2001:db8:ffff::1" : "203.0.113.90";
  std::string text = (six ? "ip6 src=" : "ip4 df src=") + source + " dst=" + to;
  // Each peer and each family its own ports, since a name with one address is reached from both: two flows that would
  // be the same outside get a port at random, which differs legitimately. Now and then the same flow twice.
  const std::string port =
      std::to_string(*rc::gen::inRange(2000, 2040) + static_cast<int>(peer) * 100 + (six ? 50 : 0));
  if (*rc::gen::arbitrary<bool>()) {
    text += " udp sport=" + port + *rc::gen::element<std::string>(" dport=53", " dport=443");
    text += " data=#" + std::to_string(*rc::gen::element(0, 8, 1200, 1390));
  } else {
    text += " tcp sport=" + port + *rc::gen::element<std::string>(" dport=22", " dport=443");
    text += *rc::gen::element<std::string>(" flags=S", " flags=S mss=8960", " flags=S mss=500", " flags=A", " flags=SA",
                                           " flags=R");
  }
  return path::build_packet(text).bytes;
}

// Identifications are numbered; how many were used up for packets that have none does not matter.
Octets comparable(Octets bytes) {
  if (bytes.size() < sizeof(Ipv4Header) || bytes[0] >> 4 != 4) return bytes;
  for (const std::size_t at : {4, 5, 10, 11}) bytes[at] = 0;
  return bytes;
}

TEST(FirstPackets, TheShortWayComesToWhatTheWholeWayComesTo) {
  EXPECT_TRUE(rc::check([] {
    World shorter, whole;
    furnish(shorter);
    furnish(whole);
    for (int burst = 0; burst < 3; ++burst) {
      std::vector<World::Incoming> plain, padded;
      const auto count = *rc::gen::inRange<std::size_t>(1, 33);
      for (std::size_t i = 0; i < count; ++i) {
        const auto peer = *rc::gen::inRange<PeerIndex>(1, 4);  // the third has no policy
        Octets bytes = any_packet(peer);
        plain.push_back({peer, bytes});
        bytes.push_back(0xee);
        padded.push_back({peer, bytes});
      }
      const auto a = shorter.up(plain), b = whole.up(padded);
      RC_ASSERT(a.size() == b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        RC_ASSERT(a[i].action == b[i].action);
        RC_ASSERT(a[i].reason == b[i].reason);
        RC_ASSERT(a[i].peer == b[i].peer);
        Octets left = comparable(a[i].bytes), right = comparable(b[i].bytes);
        if (a[i].action != Action::to_outside) {  // untouched, but for what was cut off; errors quote it
          left.resize(std::min(left.size(), right.size()));
          right.resize(left.size());
        }
        RC_ASSERT(left == right);
      }
    }
    RC_ASSERT(shorter.translator().flow_count() == whole.translator().flow_count());
    std::vector<std::string> flows[2];
    for (World* world : {&shorter, &whole})
      world->translator().for_each_flow(world->now(), [&](const FlowInfo& flow) {
        flows[world == &whole].push_back(flow.inside_source.to_string() + " " + flow.outside_source.to_string() + " " +
                                         flow.outside_destination.to_string() + " " + std::string(flow.state) + " " +
                                         std::to_string(flow.packets_up) + " " +
                                         std::to_string(flow.expires_in.count()));
      });
    RC_ASSERT(flows[0] == flows[1]);
    const auto& x = shorter.translator().counters();
    const auto& y = whole.translator().counters();
    RC_ASSERT(x.flows_created == y.flows_created && x.translated_up == y.translated_up &&
              x.icmp_errors_sent == y.icmp_errors_sent && x.resets_sent == y.resets_sent);
    static_cast<void>(shorter.release());
    static_cast<void>(whole.release());
    RC_ASSERT(shorter.packets().outstanding() == 0);
  }));
}

// Two workers: what another one is the peer's home is handed over untouched, first packet or not.
TEST(FirstPackets, OfAPeerWhoseHomeIsElsewhereAreHandedOver) {
  PeerHomes homes{16};
  World world;
  furnish(world);
  world.config.workers = 2;
  world.config.worker = 1;
  world.config.homes = &homes;
  ASSERT_EQ(homes.find_or_claim(1, 0), 0);
  const Octets packet = path::build_packet("ip4 df src=100.64.0.1 dst=203.0.113.90 udp sport=4000 dport=53").bytes;
  const auto out = world.up(1, packet);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].action, Action::handover);
  EXPECT_EQ(out[0].worker, 0);
  EXPECT_EQ(out[0].bytes, packet);
}

}  // namespace
}  // namespace penstock::nat
