// What a site may change while packets flow (site_settings.h): new flows follow, live ones stay as they are.
#include "dataplane/core/nat/site_settings.h"

#include <gtest/gtest.h>

#include <set>

#include "dataplane/core/packet/ip_parse.h"
#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::build_packet;
using path::World;

constexpr auto kStrict = Filtering::address_and_port_dependent;

class Site : public testing::Test {
 protected:
  Site() {
    world.peers[1].tunnel_v4 = IpAddress::v4({100, 64, 0, 2});
    world.peers[1].authorisations = {
        {"lan", "lan", policy::ResourceKind::cidr, Prefix::parse("203.0.113.0/24").value(), "", {}, {}}};
    world.config.source_v4 = {IpAddress::v4({203, 0, 113, 1})};
    world.config.site = &shared;
  }

  // The address and port that a datagram of the client has outside; "": it did not come out.
  std::string up(int port, const std::string& to) {
    const auto out = world.up(1, build_packet("ip4 src=100.64.0.2 dst=" + to + " df udp sport=" + std::to_string(port) +
                                              " dport=53")
                                     .bytes);
    if (out.size() != 1 || out[0].action != Action::to_outside) return {};
    const path::Octets& bytes = out[0].bytes;
    return ip_source(bytes, parse_ip(bytes).view).to_string() + ":" + std::to_string(bytes[20] << 8 | bytes[21]);
  }
  // Whether a datagram from `from` to what the client has outside comes in.
  bool down(const std::string& from, const std::string& to, int port) {
    const auto out = world.down(
        build_packet("ip4 src=" + from + " dst=" + to + " df udp sport=53 dport=" + std::to_string(port)).bytes);
    return out.size() == 1 && out[0].action == Action::to_inside && out[0].peer == 1;
  }

  SharedSiteSettings shared;
  World world;
};

TEST(SiteSettings, KeepEveryCombination) {
  SharedSiteSettings shared;
  EXPECT_EQ(SharedSiteSettings::of(shared.word()), SiteSettings{});
  EXPECT_FALSE(shared.kept_sources());
  for (const bool keep : {true, false})
    for (const Mapping mapping : {Mapping::address_and_port_dependent, Mapping::endpoint_independent})
      for (const Filtering filtering : {kStrict, Filtering::address_dependent, Filtering::endpoint_independent}) {
        const SiteSettings settings{keep, mapping, filtering};
        shared.set(settings);
        EXPECT_EQ(SharedSiteSettings::of(shared.word()), settings);
        EXPECT_TRUE(shared.kept_sources()) << "they were, once";
      }
}

TEST_F(Site, SourceNatOffAndOnAgain) {
  EXPECT_EQ(up(4000, "203.0.113.80"), "203.0.113.1:4000");
  EXPECT_FALSE(world.translator().is_source_address(IpAddress::v4({100, 64, 0, 2})));
  shared.set({.keep_source = true});
  EXPECT_EQ(up(4001, "203.0.113.80"), "100.64.0.2:4001");
  EXPECT_EQ(up(4000, "203.0.113.80"), "203.0.113.1:4000") << "a live flow stays as it is";
  EXPECT_TRUE(down("203.0.113.80", "100.64.0.2", 4001));
  EXPECT_TRUE(down("203.0.113.80", "203.0.113.1", 4000));
  shared.set({});
  EXPECT_EQ(up(4002, "203.0.113.80"), "203.0.113.1:4002");
  EXPECT_EQ(up(4001, "203.0.113.80"), "100.64.0.2:4001");
  EXPECT_TRUE(down("203.0.113.80", "100.64.0.2", 4001)) << "its answers still find it";
}

TEST_F(Site, MappingAndFilteringByTheSite) {
  world.config.first_port = 4000;
  world.config.last_port = 4003;
  EXPECT_EQ(up(4000, "203.0.113.80"), "203.0.113.1:4000");
  EXPECT_FALSE(down("203.0.113.81", "203.0.113.1", 4000));
  shared.set({false, Mapping::endpoint_independent, Filtering::endpoint_independent});
  const std::string first = up(5001, "203.0.113.80");
  EXPECT_EQ(up(5001, "203.0.113.81"), first) << "one port whomever it speaks to";
  const int port = std::stoi(first.substr(first.rfind(':') + 1));
  EXPECT_NE(port, 4000) << "somebody's already";
  EXPECT_TRUE(down("203.0.113.82", "203.0.113.1", port)) << "anybody may come in";
  EXPECT_FALSE(down("203.0.113.82", "203.0.113.1", 4000)) << "but not to flows from before";
  shared.set({false, Mapping::endpoint_independent, kStrict});
  EXPECT_FALSE(down("203.0.113.83", "203.0.113.1", port));
  shared.set({});
  EXPECT_FALSE(down("203.0.113.83", "203.0.113.1", port));
  EXPECT_TRUE(down("203.0.113.80", "203.0.113.1", port)) << "what was open stays open";
}

// Ports are counted the same way whatever was set when a flow began, so none is lost and none given twice.
TEST_F(Site, NoPortIsLostInChanges) {
  world.config.first_port = 4000;
  world.config.last_port = 4015;
  world.config.max_flows = 64;
  for (int round = 0; round < 6; ++round) {
    std::set<std::string> seen;
    for (int n = 0; n < 16; ++n) {
      if (n % 5 == 0)
        shared.set({false, n % 2 == round % 2 ? Mapping::endpoint_independent : Mapping::address_and_port_dependent,
                    kStrict});
      const std::string outside = up(20000 + n, "203.0.113.80");
      EXPECT_FALSE(outside.empty()) << round << " " << n;
      EXPECT_TRUE(seen.insert(outside).second) << outside;
    }
    EXPECT_TRUE(up(30000, "203.0.113.80").empty()) << "all ports are taken";
    world.after(std::chrono::minutes{6});
    EXPECT_EQ(world.translator().flow_count(), 0U);
  }
}

}  // namespace
}  // namespace penstock::nat
