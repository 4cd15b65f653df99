#include "dataplane/core/nat/translator.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <atomic>
#include <map>
#include <set>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::build_packet;
using path::Octets;
using path::World;
using Results = std::vector<World::Result>;

void furnish(World& world) {
  policy::PeerPolicy& peer = world.peers[1];
  peer.tunnel_v4 = IpAddress::parse("100.64.0.2").value();
  peer.tunnel_v6 = IpAddress::parse("fd00:2021:1111::2").value();
  peer.control = true;
  peer.authorisations = {
      {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}},
      {"lan6", "lan6", policy::ResourceKind::cidr, Prefix::parse("2001:db8:1a::/64").value(), "", {}, {}},
      {"corp", "corp", policy::ResourceKind::dns, {}, "**.corp.example", {}, {}}};
  const auto name = [&](const char* text, const char* v4, const char* v6, const char* real) {
    policy::Translation out;
    out.id = out.name = text;
    out.resource = "corp";
    out.proxy_v4 = IpAddress::parse(v4).value();
    out.proxy_v6 = IpAddress::parse(v6).value();
    out.state = policy::TranslationState::active;
    const IpAddress address = IpAddress::parse(real).value();
    (address.is_v4() ? out.real_v4 : out.real_v6).push_back(address);
    peer.translations.push_back(out);
  };
  name("web4.corp.example", "100.96.0.1", "fd00:2021:1111:8000::1", "203.0.113.80");
  name("web6.corp.example", "100.96.0.2", "fd00:2021:1111:8000::2", "2001:db8:1a::80");
}

const std::vector<std::string>& seeds() {
  static const std::vector<std::string> texts = {
      "ip4 src=100.64.0.2 dst=100.96.0.1 udp sport=4000 dport=53 data=#40",
      "ip4 src=100.64.0.2 dst=100.96.0.2 opts=94040000 tcp flags=S sport=4000 dport=80 mss=1460",
      "ip6 src=fd00:2021:1111::2 dst=fd00:2021:1111:8000::1 hbh dest udp sport=4000 dport=53 data=#40",
      "ip6 src=fd00:2021:1111::2 dst=fd00:2021:1111:8000::1 icmp type=echo id=7 seq=1 data=#1300",
      "ip4 src=100.64.0.2 dst=100.96.0.2 id=4 mf udp sport=4000 dport=53 data=#64",
      "ip4 src=100.64.0.2 dst=100.96.0.2 id=4 off=72 raw protocol=17 data=#64",
      "ip6 src=fd00:2021:1111::2 dst=fd00:2021:1111:8000::1 frag mf id=4 udp sport=4000 dport=53 data=#64",
      "ip4 src=100.64.0.2 dst=100.96.0.1 icmp type=unreachable code=3 [ ip4 src=100.96.0.1 dst=100.64.0.2 udp sport=53 "
      "dport=4000 data=#8 ]",
      "ip4 src=203.0.113.80 dst=203.0.113.1 udp sport=53 dport=4000 data=#1400",
      "ip6 src=2001:db8:1a::80 dst=2001:db8:1a::1 tcp flags=SA sport=80 dport=4000 mss=1460",
      "ip4 src=203.0.113.7 dst=203.0.113.1 icmp type=unreachable code=4 mtu=500 [ ip4 src=203.0.113.1 "
      "dst=203.0.113.80 df udp sport=4000 dport=53 data=#100 ]",
      "ip4 src=203.0.113.7 dst=203.0.113.1 icmp type=time_exceeded ext=2000dead00080101000a0140 [ ip4 src=203.0.113.1 "
      "dst=203.0.113.80 df udp sport=4000 dport=53 data=#20 ]",
      "ip6 src=2001:db8:1a::7 dst=2001:db8:1a::1 icmp type=packet_too_big mtu=1280 [ ip6 src=2001:db8:1a::1 "
      "dst=2001:db8:1a::80 udp sport=4000 dport=53 data=#100 ]",
  };
  return texts;
}

// Whatever goes out can be parsed, fits, and has a right IPv4 header checksum.
void check_outputs(const Results& results, const TranslatorConfig& config) {
  for (const World::Result& result : results) {
    if (result.action != Action::to_inside && result.action != Action::to_outside) continue;
    const IpParse parsed = parse_ip(Bytes{result.bytes});
    RC_ASSERT(parsed.reason == DropReason::none);
    RC_ASSERT(parsed.view.total_length == result.bytes.size());
    if (!parsed.view.v6()) RC_ASSERT(ipv4_header_checksum_ok(Bytes{result.bytes}));
    RC_ASSERT(result.bytes.size() <= (result.action == Action::to_inside ? config.mtu_inside : config.mtu_outside));
  }
}

TEST(Translator, NoBytesCrashItOrLoseAPacket) {
  EXPECT_TRUE(rc::check([] {
    World world;
    furnish(world);
    for (int step = 0; step < 60; ++step) {
      Octets bytes = build_packet(seeds()[*rc::gen::inRange<std::size_t>(0, seeds().size())]).bytes;
      const auto kind = *rc::gen::inRange(0, 4);
      if (kind == 0) bytes.resize(*rc::gen::inRange<std::size_t>(0, bytes.size()));
      if (kind <= 2)
        for (int i = 0; i < kind * 2; ++i)
          if (!bytes.empty())
            bytes[*rc::gen::inRange<std::size_t>(0, std::min<std::size_t>(bytes.size(), 120))] =
                *rc::gen::arbitrary<std::uint8_t>();
      // Most damage would end at a checksum; repair the IPv4 header's now and then.
      if (bytes.size() >= 20 && bytes[0] >> 4 == 4 && *rc::gen::arbitrary<bool>()) {
        const std::size_t length = std::min<std::size_t>((bytes[0] & 15U) * 4U, bytes.size());
        if (length >= 20) {
          bytes[10] = bytes[11] = 0;
          const be16 sum = checksum_finish(checksum_add(0, Bytes{bytes}.first(length)));
          std::memcpy(bytes.data() + 10, &sum, 2);
        }
      }
      check_outputs(world.up(1, bytes), world.config);
      check_outputs(world.down(bytes), world.config);
      if (step % 16 == 0) check_outputs(world.after(std::chrono::seconds{*rc::gen::inRange(0, 400)}), world.config);
    }
    world.release();
    RC_ASSERT(world.packets().outstanding() == 0u);
    world.after(std::chrono::hours{3});
    RC_ASSERT(world.translator().flow_count() == 0u);
  }));
}

// A peer that is gone gives its flows back in bounded steps; others keep theirs.
TEST(Translator, FlowsOfPeersThatAreGoneEnd) {
  World world;
  furnish(world);
  world.peers[2] = world.peers[1];
  world.peers[2].tunnel_v4 = IpAddress::parse("100.64.0.3").value();
  for (int i = 0; i < 40; ++i) {
    const std::string ports = " udp sport=" + std::to_string(4000 + i) + " dport=53";
    world.up(1, build_packet("ip4 src=100.64.0.2 dst=100.96.0.1" + ports).bytes);
    world.up(2, build_packet("ip4 src=100.64.0.3 dst=100.96.0.1" + ports).bytes);
  }
  ASSERT_EQ(world.translator().flow_count(), 80u);
  std::vector<std::atomic<const policy::PeerPolicy*>> only_second(3);
  only_second[2].store(&world.peers[2]);
  EXPECT_FALSE(world.translator().end_orphans({only_second.data(), only_second.size()}, true, 10));
  EXPECT_GE(world.translator().flow_count(), 70u) << "a step is bounded";
  int steps = 1;
  while (!world.translator().end_orphans({only_second.data(), only_second.size()}, false, 10)) ASSERT_LT(++steps, 20);
  EXPECT_EQ(world.translator().flow_count(), 40u);
  // What is left is the second peer's, and still works.
  const auto still = world.up(2, build_packet("ip4 src=100.64.0.3 dst=100.96.0.1 udp sport=4000 dport=53").bytes);
  ASSERT_EQ(still.size(), 1u);
  EXPECT_EQ(still[0].action, Action::to_outside);
  EXPECT_EQ(world.translator().flow_count(), 40u);
}

// Where the tunnel's address is also a source address, a flow on the tunnel's port would swallow its datagrams.
TEST(Translator, TheTunnelsPortIsNeverGivenToAFlow) {
  World world;
  furnish(world);
  world.config.first_port = 51000;
  world.config.last_port = 51015;
  world.config.reserved_udp_port = 51008;
  std::set<std::uint16_t> ports;
  for (int i = 0; i < 16; ++i)
    world.up(
        1,
        build_packet("ip4 src=100.64.0.2 dst=100.96.0.1 udp sport=" + std::to_string(51000 + i) + " dport=53").bytes);
  world.translator().for_each_flow({}, [&](const FlowInfo& flow) { ports.insert(flow.outside_source.port); });
  EXPECT_EQ(ports.size(), 15u) << "all but the reserved one";
  EXPECT_FALSE(ports.contains(51008));
  world.up(1, build_packet("ip4 src=100.64.0.2 dst=100.96.0.1 tcp flags=S sport=51008 dport=80").bytes);
  bool tcp = false;
  world.translator().for_each_flow({}, [&](const FlowInfo& flow) {
    tcp = tcp || (flow.protocol == ip_protocol::tcp && flow.outside_source.port == 51008);
  });
  EXPECT_TRUE(tcp) << "TCP has ports of its own";
}

TEST(Translator, RandomBytesAreHarmless) {
  EXPECT_TRUE(rc::check([](const Octets& bytes) {
    World world;
    furnish(world);
    world.up(1, bytes);
    world.down(bytes);
    world.release();
    RC_ASSERT(world.packets().outstanding() == 0u);
  }));
}

// A simple model of the NAT: per flow the outside tuple it was given and when it was last used.
struct ModelFlow {
  std::uint16_t port = 0;
  Instant last{};
};

struct ModelKey {
  int peer;
  int client_port;
  int server;
  auto operator<=>(const ModelKey&) const = default;
};

// Few ports, few servers and much time passing: exhaustion, re-use and expiry all happen.
TEST(Translator, AgreesWithASimpleNatOverRandomTraces) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    World world;
    furnish(world);
    world.peers[2] = world.peers[1];
    world.peers[2].tunnel_v4 = IpAddress::parse("100.64.0.3").value();
    constexpr std::size_t kPorts = 12;
    world.config.first_port = 6000;
    world.config.last_port = 6000 + kPorts - 1;
    world.config.max_flows = 24;
    world.config.icmp_errors_burst = 0;
    path::SeededRandom random{seed};
    std::map<ModelKey, ModelFlow> model;
    const auto server = [](int n) { return "203.0.113." + std::to_string(80 + n); };
    const auto expire = [&] {
      // Exact lifetimes are 5 min up to two ticks (0.14 s); the trace keeps away from the edge.
      std::erase_if(model,
                    [&](const auto& e) { return world.now().monotonic - e.second.last > std::chrono::seconds{301}; });
    };
    for (int step = 0; step < 250; ++step) {
      const ModelKey key{static_cast<int>(1 + random.below(2)), static_cast<int>(1000 + random.below(16)),
                         static_cast<int>(random.below(3))};
      const std::uint32_t kind = random.below(8);
      if (kind == 0) {
        world.after(std::chrono::seconds{random.below(4) == 0 ? 310 : 60});
        expire();
      } else if (kind <= 4) {
        const std::string source = key.peer == 1 ? "100.64.0.2" : "100.64.0.3";
        const Results out = world.up(static_cast<PeerIndex>(key.peer),
                                     build_packet("ip4 src=" + source + " dst=" + server(key.server) +
                                                  " df udp sport=" + std::to_string(key.client_port) + " dport=53")
                                         .bytes);
        RC_ASSERT(out.size() == 1u);
        std::set<std::uint16_t> used;
        for (const auto& [k, f] : model)
          if (k.server == key.server) used.insert(f.port);
        const auto known = model.find(key);
        if (known == model.end() && (used.size() == kPorts || model.size() == world.config.max_flows)) {
          RC_ASSERT(out[0].action == Action::drop);
          continue;
        }
        RC_ASSERT(out[0].action == Action::to_outside);
        const auto port = static_cast<std::uint16_t>(out[0].bytes[20] << 8 | out[0].bytes[21]);
        if (known == model.end()) {
          RC_ASSERT(port >= 6000 && port < 6000 + kPorts);
          RC_ASSERT(!used.contains(port));
          model[key] = {port, world.now().monotonic};
        } else {
          RC_ASSERT(port == known->second.port);
          known->second.last = world.now().monotonic;
        }
      } else {
        const auto port = static_cast<std::uint16_t>(6000 + random.below(kPorts));
        const Results out = world.down(build_packet("ip4 src=" + server(key.server) +
                                                    " dst=203.0.113.1 udp sport=53 dport=" + std::to_string(port))
                                           .bytes);
        RC_ASSERT(out.size() == 1u);
        auto found = std::find_if(model.begin(), model.end(),
                                  [&](const auto& e) { return e.first.server == key.server && e.second.port == port; });
        if (found == model.end()) {
          RC_ASSERT(out[0].action == Action::not_ours);
        } else {
          RC_ASSERT(out[0].action == Action::to_inside);
          RC_ASSERT(out[0].peer == static_cast<PeerIndex>(found->first.peer));
          RC_ASSERT((out[0].bytes[22] << 8 | out[0].bytes[23]) == found->first.client_port);
          found->second.last = world.now().monotonic;
        }
      }
      RC_ASSERT(world.translator().flow_count() == model.size());
    }
  }));
}

// 60 000 connections at one time to one server, behind one address.
TEST(Translator, SixtyThousandFlowsToOneServer) {
  World world;
  furnish(world);
  world.config.max_flows = 64000;
  world.config.max_flows_per_peer = 64000;
  std::set<std::uint16_t> ports;
  for (int n = 0; n < 60000; ++n) {
    const bool mapped = n % 2 == 0;
    const Results out =
        world.up(1, build_packet(std::string{"ip4 src=100.64.0.2 dst="} + (mapped ? "100.96.0.1" : "203.0.113.80") +
                                 " df udp dport=53 sport=" + std::to_string(1024 + n))
                        .bytes);
    ASSERT_EQ(out.size(), 1u);
    ASSERT_EQ(out[0].action, Action::to_outside) << n;
    ASSERT_TRUE(ports.insert(static_cast<std::uint16_t>(out[0].bytes[20] << 8 | out[0].bytes[21])).second);
  }
  EXPECT_EQ(world.translator().flow_count(), 60000u);
}

TEST(Translator, ShowsItsFlows) {
  World world;
  furnish(world);
  world.up(1,
           build_packet("ip6 src=fd00:2021:1111::2 dst=fd00:2021:1111:8000::1 tcp flags=S sport=5000 dport=80").bytes);
  world.down(build_packet("ip4 src=203.0.113.80 dst=203.0.113.1 tcp flags=SA sport=80 dport=5000").bytes);
  int seen = 0;
  world.translator().for_each_flow(world.now(), [&](const FlowInfo& flow) {
    ++seen;
    EXPECT_EQ(flow.translation, "nat64");
    EXPECT_EQ(flow.state, "established");
    EXPECT_EQ(flow.inside_source.to_string(), "[fd00:2021:1111::2]:5000");
    EXPECT_EQ(flow.inside_destination.to_string(), "[fd00:2021:1111:8000::1]:80");
    EXPECT_EQ(flow.outside_source.to_string(), "203.0.113.1:5000");
    EXPECT_EQ(flow.outside_destination.to_string(), "203.0.113.80:80");
    EXPECT_EQ(flow.packets_up, 1u);
    EXPECT_EQ(flow.packets_down, 1u);
    EXPECT_NE(flow.translation_tag, 0u);
    EXPECT_GT(flow.expires_in, std::chrono::hours{2});
  });
  EXPECT_EQ(seen, 1);
}

// A whole burst keeps its order, and neighbours of one flow share nothing by accident.
TEST(Translator, OneBurstOfOneFlowKeepsItsOrder) {
  World world;
  furnish(world);
  (void)world.translator();
  std::vector<Packet*> burst;
  for (std::size_t i = 0; i < kBurst; ++i) {
    Packet* packet =
        world.packets().make(build_packet("ip4 src=100.64.0.2 dst=100.96.0.2 df udp sport=4000 dport=53 data=" +
                                          std::string{"0123456789abcdef"[i / 16]} + "0123456789abcdef"[i % 16])
                                 .bytes);
    packet->peer = 1;
    burst.push_back(packet);
  }
  policy::PeerPolicy policy = world.peers[1];
  policy.seal();
  std::vector<std::atomic<const policy::PeerPolicy*>> pointers(2);
  pointers[1] = &policy;
  Outcomes out;
  world.translator().translate_up(burst, {pointers.data(), pointers.size()}, world.now(), out);
  ASSERT_EQ(out.size(), kBurst);
  for (std::size_t i = 0; i < kBurst; ++i) {
    EXPECT_EQ(out[i].packet, burst[i]);
    EXPECT_EQ(out[i].action, Action::to_outside);
    EXPECT_EQ(out[i].packet->data[48], i);
  }
  EXPECT_EQ(world.translator().flow_count(), 1u);
  for (Packet* packet : burst) world.packets().free(packet);
}

}  // namespace
}  // namespace penstock::nat
