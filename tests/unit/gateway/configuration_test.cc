#include "dataplane/gateway/configuration.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>

#include "tests/unit/gateway/builder.h"
#include "tests/unit/gateway/topology.h"

namespace penstock::gateway::test {
namespace {

Configuration built(const ConfigurationDescription& description) {
  Configuration out;
  const auto error = Configuration::build(description, out);
  EXPECT_FALSE(error) << error->key << ": " << error->reason;
  return out;
}

TEST(Configuration, FillsWhatIsLeftOut) {
  const Configuration two = built(two_armed());
  EXPECT_EQ(two.tunnel_v4, ip("198.51.100.194"));
  EXPECT_EQ(two.tunnel_v6, ip("2001:db8:ee::1"));
  EXPECT_EQ(two.nat_v4, ip("203.0.113.1"));
  EXPECT_EQ(two.nat_v6, ip("2001:db8:1a::1"));
  ConfigurationDescription only = two_armed();
  only.ports.pop_back();
  const Configuration one = built(only);
  EXPECT_EQ(one.nat_v4, ip("198.51.100.194"));  // one-armed: the only port's own
}

TEST(Configuration, KnowsWhatIsOurs) {
  ConfigurationDescription description = two_armed();
  description.nat.source_addresses = {ip("203.0.113.200"), ip("203.0.113.1")};
  const Configuration configuration = built(description);
  const struct {
    const char* address;
    unsigned uses;
  } cases[] = {{"198.51.100.194", address_use::port | address_use::tunnel},
               {"203.0.113.1", address_use::port | address_use::source_nat},
               {"203.0.113.200", address_use::source_nat | address_use::any_port},
               {"fe80::ff:fe00:2", address_use::port},
               {"203.0.113.2", address_use::none}};
  for (const auto& c : cases) {
    const AddressSet::Entry* entry = configuration.ours.find(ip(c.address));
    EXPECT_EQ(entry == nullptr ? 0U : entry->uses, c.uses) << c.address;
  }
}

TEST(Configuration, ChoosesSources) {
  const Configuration configuration = built(two_armed());
  EXPECT_EQ(configuration.source_for(kLan, ip("203.0.113.7")), ip("203.0.113.1"));
  EXPECT_EQ(configuration.source_for(kWan, ip("192.0.2.1")), ip("198.51.100.194"));
  EXPECT_EQ(configuration.source_for(kWan, ip("2001:db8:ee::5")), ip("2001:db8:ee::1"));
  EXPECT_EQ(configuration.source_for(kLan, ip("fe80::1234")), link_local_of(kLanMac));
}

TEST(Configuration, NamesWhatIsWrong) {
  struct Case {
    const char* key;
    std::function<void(ConfigurationDescription&)> spoil;
  };
  const Case cases[] = {
      {"ports", [](auto& d) { d.ports.clear(); }},
      {"ports[1].name", [](auto& d) { d.ports[1].name = "wan"; }},
      {"ports[0].name", [](auto& d) { d.ports[0].name = ""; }},
      {"ports[0].mtu", [](auto& d) { d.ports[0].mtu = 100; }},
      {"ports[0].mtu", [](auto& d) { d.ports[0].mtu = 1000; }},  // too small for its IPv6 address
      {"ports[0].vlan", [](auto& d) { d.ports[0].vlan = 4095; }},
      {"ports[1].mac", [](auto& d) { d.ports[1].mac = {0x33, 0x33, 0, 0, 0, 1}; }},
      {"ports[1].addresses[0]", [](auto& d) { d.ports[1].addresses[0].address = ip("224.0.0.1"); }},
      {"ports[1].addresses[0]", [](auto& d) { d.ports[1].addresses[0].address = ip("198.51.100.194"); }},
      {"ports[1].addresses[0]", [](auto& d) { d.ports[1].addresses[0].prefix_length = 33; }},
      {"tunnel.port", [](auto& d) { d.tunnel.port = 7; }},
      {"tunnel.listen_port", [](auto& d) { d.tunnel.listen_port = 0; }},
      {"tunnel.addresses", [](auto& d) { d.ports[0].addresses.clear(); }},
      {"tunnel.addresses[0]", [](auto& d) { d.tunnel.addresses = {ip("0.0.0.0")}; }},
      {"nat.ports",
       [](auto& d) {
         d.nat.first_port = 5;
         d.nat.last_port = 4;
       }},
      {"nat.max_flows", [](auto& d) { d.nat.max_flows = 0; }},
      {"nat.source_addresses[1]",
       [](auto& d) {
         d.nat.source_addresses = {ip("203.0.113.1"), ip("203.0.113.1")};
       }},
      {"routes[0].via", [](auto& d) { d.routes[0].via = ip("2001:db8::1"); }},
      {"routes[0].via", [](auto& d) { d.routes[0].via = ip("203.0.113.1"); }},
      {"routes[0].port", [](auto& d) { d.routes[0].port = 9; }},
      {"mtu", [](auto& d) { d.inner_mtu = 500; }},
      {"mtu", [](auto& d) { d.inner_mtu = 1421; }},  // and 80 bytes around it do not fit 1500
  };
  for (const Case& c : cases) {
    ConfigurationDescription description = two_armed();
    c.spoil(description);
    Configuration out;
    const auto error = Configuration::build(description, out);
    ASSERT_TRUE(error) << c.key;
    EXPECT_EQ(error->key, c.key) << error->reason;
    EXPECT_FALSE(error->reason.empty());
  }
}

RC_GTEST_PROP(RouteTable, AgreesWithALinearSearch, ()) {
  // A narrow space of addresses, so that prefixes nest and collide.
  const auto address = [](bool four) {
    const auto byte = [] { return *rc::gen::element<std::uint8_t>(0, 1, 2, 127, 128, 129, 255); };
    if (four) return IpAddress::v4({10, byte(), byte(), byte()});
    std::array<std::uint8_t, 16> bytes{0x20, 0x01, byte(), byte()};
    bytes[8] = byte();
    bytes[15] = byte();
    return IpAddress::v6(bytes);
  };
  RouteTable table;
  std::vector<Route> routes;
  const int count = *rc::gen::inRange(0, 40);
  for (int i = 0; i < count; ++i) {
    const bool four = *rc::gen::arbitrary<bool>();
    Route route{Prefix{address(four), *rc::gen::inRange<unsigned>(0, four ? 33 : 129)}, {}, static_cast<PortIndex>(i)};
    RC_ASSERT(table.add(route));
    std::erase_if(routes, [&route](const Route& r) { return r.to == route.to; });
    routes.push_back(route);
  }
  for (int i = 0; i < 50; ++i) {
    const IpAddress destination = address(*rc::gen::arbitrary<bool>());
    const Route* best = nullptr;
    for (const Route& route : routes)
      if (route.to.contains(destination) && (best == nullptr || route.to.length() > best->to.length())) best = &route;
    const Route* found = table.lookup(destination);
    RC_ASSERT((found == nullptr) == (best == nullptr));
    if (best != nullptr) RC_ASSERT(found->port == best->port);
  }
}

TEST(AddressSet, HoldsMany) {
  AddressSet set;
  for (std::uint32_t i = 0; i < 1000; ++i) set.add(IpAddress::v4(0x0a000000 + i), address_use::source_nat, kNoPort);
  EXPECT_EQ(set.size(), 1000U);
  for (std::uint32_t i = 0; i < 1000; ++i) ASSERT_NE(set.find(IpAddress::v4(0x0a000000 + i)), nullptr);
  EXPECT_EQ(set.find(IpAddress::v4(0x0b000000)), nullptr);
}

}  // namespace
}  // namespace penstock::gateway::test
