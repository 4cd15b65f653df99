// What the packet path is configured with: ports, addresses, routes, the tunnel's port, source addresses, limits.
//
// Immutable once built: `Configuration::build` checks a plain description (filled by the runtime from YAML, by tests by
// hand) and makes the tables that workers read. Workers and the slow thread hold a const pointer; a new configuration
// is a new object behind an RCU pointer. Lookups are O(length of an address), never O(number of routes or addresses).
// Ports are host order, MTUs count bytes of the IP packet.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/nat/site_settings.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/address_set.h"
#include "dataplane/gateway/route_table.h"

namespace penstock::gateway {

inline constexpr std::uint16_t kDefaultInnerMtu = 1280;  // RFC 8200 §5: IPv6's minimum
inline constexpr std::uint16_t kDefaultListenPort = 51820;

struct InterfaceAddress {
  IpAddress address;
  std::uint8_t prefix_length = 0;  // of the address's own family; the connected route

  bool operator==(const InterfaceAddress&) const = default;
};

struct PortConfiguration {
  std::string name;
  MacAddress mac{};
  std::vector<InterfaceAddress> addresses;
  std::uint16_t mtu = 1500;
  std::uint16_t vlan = 0;  // 0: untagged; otherwise frames carry this tag and others are refused
};

struct TunnelConfiguration {
  PortIndex port = 0;
  std::uint16_t listen_port = kDefaultListenPort;
  std::vector<IpAddress>
      addresses;  // empty: all of the port's; the first of each family is the source of what we start
};

struct NatConfiguration {
  std::vector<IpAddress> source_addresses;  // both families; empty: the first of each family on the ports other than
                                            // the tunnel's, or of the only port (one-armed)
  std::uint16_t first_port = 1024;
  std::uint16_t last_port = 65535;
  std::uint32_t max_flows = 262144;  // of all workers together
  std::uint32_t max_flows_per_peer = 65536;
  // `source_nat: off`: ranges of clients that the LAN routes to us. Packets to them are for the translator, always or,
  // where there is `site`, since it has said so.
  std::vector<Prefix> routed;
  const nat::SharedSiteSettings* site = nullptr;
  nat::Unsolicited unsolicited = nat::Unsolicited::pass;
  bool hairpinning = false;
  std::uint16_t lowest_ipv6_mtu = 1280;
};

// The kernel behind a TAP device. IP packets that are ours but not for the tunnel or a binding go there; what it sends
// is routed like our own packets (the kernel's default route points at the TAP, we answer its ARP and ND for
// everything).
struct ExceptionConfiguration {
  bool enabled = false;
  MacAddress mac{};  // of the kernel's side of the TAP: destination of the frames it is given
};

// A plain description, as somebody wrote it.
struct ConfigurationDescription {
  std::vector<PortConfiguration> ports;
  std::vector<Route> routes;  // static ones; connected routes are added by build
  TunnelConfiguration tunnel;
  NatConfiguration nat;
  ExceptionConfiguration exception;
  std::uint16_t inner_mtu = kDefaultInnerMtu;
};

struct ConfigurationError {
  std::string key;  // path in the YAML file, e.g. "ports[1].addresses[0]"
  std::string reason;
};

struct Configuration {
  std::vector<PortConfiguration> ports;
  TunnelConfiguration tunnel;  // `addresses` filled
  NatConfiguration nat;        // `source_addresses` filled
  ExceptionConfiguration exception;
  std::uint16_t inner_mtu = kDefaultInnerMtu;
  // Every port's device fills UDP checksums over IPv6 in: outer packets leave with the pseudo-header's sum and a mark
  // (packet_flag::l4_checksum_ok). Set by who knows the devices.
  bool device_checksums = false;

  IpAddress tunnel_v4;  // source of datagrams we start; unspecified: none of that family
  IpAddress tunnel_v6;
  IpAddress nat_v4;  // first source address per family; unspecified: none
  IpAddress nat_v6;
  std::array<MacAddress, 16> port_mac{};  // same as in ports, dense for the output stage

  RouteTable routes;  // connected, static and link-local
  AddressSet ours;    // every address we answer for: ports, link-local, tunnel, source NAT

  // Whether packets to `address` that come from the LAN belong to flows: addresses of ours, and of clients that appear
  // there as they are.
  [[nodiscard]] bool is_routed_client(const IpAddress& address) const {
    if (nat.site != nullptr && !nat.site->kept_sources()) return false;
    for (const Prefix& range : nat.routed)
      if (range.contains(address)) return true;
    return false;
  }

  // Checks everything and fills `out`. nullopt: done; otherwise what is wrong, and `out` is unspecified.
  [[nodiscard]] static std::optional<ConfigurationError> build(const ConfigurationDescription& description,
                                                               Configuration& out);

  // The address of `port` that a packet towards `destination` starts from: on the same subnet if there is one, else
  // the first of the family, else any of that family on any port. Unspecified when there is none.
  [[nodiscard]] IpAddress source_for(PortIndex port, const IpAddress& destination) const;

  // The next hop on the wire: the route's gateway, or the destination itself when it is on the link.
  [[nodiscard]] static const IpAddress& next_hop(const Route& route, const IpAddress& destination) {
    return route.on_link() ? destination : route.via;
  }

  [[nodiscard]] bool has_source_v4() const { return !nat_v4.is_unspecified(); }
  [[nodiscard]] bool has_source_v6() const { return !nat_v6.is_unspecified(); }
};

// fe80::/64 with the EUI-64 of `mac` (RFC 4291 appendix A).
[[nodiscard]] IpAddress link_local_of(const MacAddress& mac);

// ff02::1:ffXX:XXXX (RFC 4291 §2.7.1).
[[nodiscard]] IpAddress solicited_node_of(const IpAddress& address);

}  // namespace penstock::gateway
