// The network that the tests of the packet path live in.
#pragma once

#include "dataplane/gateway/configuration.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::gateway::test {

using namespace std::chrono_literals;

inline constexpr MacAddress kWanMac = {0x02, 0, 0, 0, 0, 0x01};
inline constexpr MacAddress kLanMac = {0x02, 0, 0, 0, 0, 0x02};
inline constexpr MacAddress kKernelMac = {0x02, 0, 0, 0, 0, 0x40};
inline constexpr PortIndex kWan = 0;
inline constexpr PortIndex kLan = 1;

// WAN 198.51.100.194/26 and 2001:db8:ee::1/64, LAN 203.0.113.1/24 and 2001:db8:1a::1/64; default routes over the WAN.
inline ConfigurationDescription two_armed() {
  ConfigurationDescription out;
  out.ports.push_back({"wan", kWanMac, {{ip("198.51.100.194"), 26}, {ip("2001:db8:ee::1"), 64}}, 1500, 0});
  out.ports.push_back({"lan", kLanMac, {{ip("203.0.113.1"), 24}, {ip("2001:db8:1a::1"), 64}}, 1500, 0});
  out.routes.push_back({*Prefix::parse("0.0.0.0/0"), ip("198.51.100.193"), kWan});
  out.routes.push_back({*Prefix::parse("::/0"), ip("2001:db8:ee::ffff"), kWan});
  out.tunnel.port = kWan;
  return out;
}

// The same, both on one port: WAN and LAN addresses, tunnel on the first.
inline ConfigurationDescription one_armed() {
  ConfigurationDescription out = two_armed();
  out.ports[0].addresses.insert(out.ports[0].addresses.end(), out.ports[1].addresses.begin(),
                                out.ports[1].addresses.end());
  out.ports.pop_back();
  out.tunnel.addresses = {ip("198.51.100.194"), ip("2001:db8:ee::1")};
  out.nat.source_addresses = {ip("203.0.113.1"), ip("2001:db8:1a::1")};
  return out;
}

}  // namespace penstock::gateway::test
