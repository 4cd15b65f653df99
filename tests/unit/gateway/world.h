// A gateway between a client and a LAN, ready to be used: what most tests of the packet path start from.
#pragma once

#include <gtest/gtest.h>

#include "dataplane/core/policy/snapshot.h"
#include "tests/unit/gateway/harness.h"

namespace penstock::gateway::test {

inline constexpr MacAddress kRouterMac = {0x02, 0, 0, 0, 0, 0x99};
inline constexpr MacAddress kServerMac = {0x02, 0, 0, 0, 1, 0x50};

inline const IpAddress kServer4 = ip("203.0.113.80");
inline const IpAddress kServer6 = ip("2001:db8:1a::80");

struct Names {
  IpAddress only_v4_as_v4 = ip("100.96.0.1"), only_v4_as_v6 = ip("fd00:2021:1111:8000::1");
  IpAddress only_v6_as_v4 = ip("100.96.0.2"), only_v6_as_v6 = ip("fd00:2021:1111:8000::2");
};

inline void add_name(policy::PeerPolicy& policy, const std::string& id, const IpAddress& v4, const IpAddress& v6,
                     const IpAddress& real, policy::TranslationState state = policy::TranslationState::active) {
  policy::Translation name;
  name.id = id;
  name.name = id + ".corp.example";
  name.resource = "names";
  name.proxy_v4 = v4;
  name.proxy_v6 = v6;
  name.state = state;
  if (!real.is_unspecified()) (real.is_v4() ? name.real_v4 : name.real_v6).push_back(real);
  policy.translations.push_back(name);
}

// Gateway, router, one LAN server of both families, one client with a session.
struct World {
  explicit World(const GatewayOptions& options = {}, bool six = false)
      : gateway(options),
        lan(static_cast<PortIndex>(gateway.configuration.ports.size() - 1)),
        router(gateway.add_host(kWan, kRouterMac, {ip("198.51.100.193"), ip("2001:db8:ee::ffff")})),
        server(gateway.add_host(lan, kServerMac, {kServer4, kServer6})),
        client(gateway, six ? Endpoint{ip("2001:db8:c::130"), 51820} : Endpoint{ip("198.51.100.130"), 51820}, 2) {
    auto policy = client.policy();
    add_name(*policy, "v4", names.only_v4_as_v4, names.only_v4_as_v6, kServer4);
    add_name(*policy, "v6", names.only_v6_as_v4, names.only_v6_as_v6, kServer6);
    gateway.publish(std::move(policy));
  }
  ~World() {
    gateway.run(400s);
    EXPECT_EQ(gateway.packets.live(), gateway.slow->held());  // trap: io-8
  }

  Names names;
  Gateway gateway;
  PortIndex lan;
  Host& router;
  Host& server;
  Client client;
};

// Behind the eight bytes of ICMP's or UDP's header.
inline Octets payload_of(const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  return {packet.begin() + parse.view.header_length + 8, packet.begin() + parse.view.total_length};
}

// Pieces of one IPv4 packet: none is longer than `limit`, each has a header of its own that is right. Bytes they carry.
inline std::size_t carried_by(const std::vector<Octets>& pieces, std::size_t limit) {
  std::size_t bytes = 0;
  for (const Octets& piece : pieces) {
    EXPECT_LE(piece.size(), limit);
    EXPECT_EQ(checksum_fold(checksum_add(0, Bytes{piece}.first(20))), 0xffff);
    bytes += piece.size() - 20;
  }
  return bytes;
}

// What the slow thread told the control process, of one kind.
template <typename Event>
std::vector<Event> events_of(const Gateway& gateway) {
  std::vector<Event> out;
  for (const SlowEvent& event : gateway.events)
    if (const auto* one = std::get_if<Event>(&event)) out.push_back(*one);
  return out;
}

}  // namespace penstock::gateway::test
