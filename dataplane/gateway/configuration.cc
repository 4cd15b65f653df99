#include "dataplane/gateway/configuration.h"

#include <algorithm>

namespace penstock::gateway {
namespace {

using Error = std::optional<ConfigurationError>;

std::string at(const char* key, std::size_t index) {
  return std::string(key) + "[" + std::to_string(index) + "]";
}

bool is_multicast(const IpAddress& address) {
  return address.is_v4() ? (address.v4_value() >> 28) == 0xe : address.bytes()[0] == 0xff;
}

bool is_assignable(const IpAddress& address) {
  if (address.is_unspecified() || is_multicast(address)) return false;
  if (address.is_v4()) return (address.v4_value() >> 24) != 127 && address.v4_value() != 0xffffffff;
  return address != IpAddress::v6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
}

Error check_ports(const ConfigurationDescription& description) {
  if (description.ports.empty()) return ConfigurationError{"ports", "at least one is needed"};
  if (description.ports.size() > 16) return ConfigurationError{"ports", "at most 16"};
  for (std::size_t i = 0; i < description.ports.size(); ++i) {
    const PortConfiguration& port = description.ports[i];
    const std::string key = at("ports", i);
    if (port.name.empty()) return ConfigurationError{key + ".name", "must not be empty"};
    if (port.mtu < 576 || port.mtu > 9600) return ConfigurationError{key + ".mtu", "must lie in 576-9600"};
    if (port.vlan > 4094) return ConfigurationError{key + ".vlan", "must lie in 0-4094"};
    if ((port.mac[0] & 1) != 0) return ConfigurationError{key + ".mac", "is a group address"};
    for (std::size_t k = 0; k < port.addresses.size(); ++k) {
      const InterfaceAddress& address = port.addresses[k];
      const std::string where = key + "." + at("addresses", k);
      if (!is_assignable(address.address)) return ConfigurationError{where, "cannot be an interface's address"};
      if (address.prefix_length > (address.address.is_v4() ? 32 : 128))
        return ConfigurationError{where, "prefix length is too long"};
      if (!address.address.is_v4() && port.mtu < 1280)
        return ConfigurationError{key + ".mtu", "must be at least 1280 for IPv6 (RFC 8200)"};
      for (std::size_t other = 0; other <= i; ++other)
        for (std::size_t m = 0; m < (other == i ? k : description.ports[other].addresses.size()); ++m)
          if (description.ports[other].addresses[m].address == address.address)
            return ConfigurationError{where, "is given twice"};
    }
    for (std::size_t other = 0; other < i; ++other)
      if (description.ports[other].name == port.name) return ConfigurationError{key + ".name", "is given twice"};
  }
  return std::nullopt;
}

Error fill_tunnel(Configuration& out) {
  if (out.tunnel.port >= out.ports.size()) return ConfigurationError{"tunnel.port", "is no port of the list"};
  if (out.tunnel.listen_port == 0) return ConfigurationError{"tunnel.listen_port", "must not be 0"};
  if (out.tunnel.addresses.empty())
    for (const InterfaceAddress& address : out.ports[out.tunnel.port].addresses)
      out.tunnel.addresses.push_back(address.address);
  if (out.tunnel.addresses.empty()) return ConfigurationError{"tunnel.addresses", "the tunnel's port has no address"};
  for (std::size_t i = 0; i < out.tunnel.addresses.size(); ++i) {
    const IpAddress& address = out.tunnel.addresses[i];
    if (!is_assignable(address)) return ConfigurationError{at("tunnel.addresses", i), "cannot be our address"};
    IpAddress& first = address.is_v4() ? out.tunnel_v4 : out.tunnel_v6;
    if (first.is_unspecified()) first = address;
    const AddressSet::Entry* known = out.ours.find(address);
    out.ours.add(address, known ? address_use::tunnel : address_use::tunnel | address_use::any_port,
                 known ? known->port : kNoPort);
  }
  return std::nullopt;
}

Error fill_nat(Configuration& out) {
  std::vector<IpAddress>& sources = out.nat.source_addresses;
  if (sources.empty())
    for (const bool four : {true, false})
      for (std::size_t i = 0; i < out.ports.size(); ++i) {
        if (i == out.tunnel.port && out.ports.size() > 1) continue;
        const auto& addresses = out.ports[i].addresses;
        const auto found = std::find_if(addresses.begin(), addresses.end(),
                                        [four](const InterfaceAddress& a) { return a.address.is_v4() == four; });
        if (found == addresses.end()) continue;
        sources.push_back(found->address);
        break;
      }
  if (out.nat.first_port == 0 || out.nat.first_port > out.nat.last_port)
    return ConfigurationError{"nat.ports", "is empty or starts at 0"};
  if (out.nat.max_flows == 0) return ConfigurationError{"nat.max_flows", "must not be 0"};
  if (out.nat.max_flows_per_peer == 0) return ConfigurationError{"nat.max_flows_per_peer", "must not be 0"};
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::string where = at("nat.source_addresses", i);
    if (!is_assignable(sources[i])) return ConfigurationError{where, "cannot be a source address"};
    if (std::find(sources.begin(), sources.begin() + static_cast<std::ptrdiff_t>(i), sources[i]) !=
        sources.begin() + static_cast<std::ptrdiff_t>(i))
      return ConfigurationError{where, "is given twice"};
    IpAddress& first = sources[i].is_v4() ? out.nat_v4 : out.nat_v6;
    if (first.is_unspecified()) first = sources[i];
    const AddressSet::Entry* known = out.ours.find(sources[i]);
    out.ours.add(sources[i], known ? address_use::source_nat : address_use::source_nat | address_use::any_port,
                 known ? known->port : kNoPort);
  }
  return std::nullopt;
}

Error fill_routes(const ConfigurationDescription& description, Configuration& out) {
  for (std::size_t i = 0; i < out.ports.size(); ++i)
    for (const InterfaceAddress& address : out.ports[i].addresses)
      out.routes.add({Prefix{address.address, address.prefix_length}, IpAddress{}, static_cast<PortIndex>(i)});
  for (std::size_t i = 0; i < description.routes.size(); ++i) {
    Route route = description.routes[i];
    const std::string where = at("routes", i);
    if (!route.on_link()) {
      if (route.via.is_v4() != route.to.address().is_v4())
        return ConfigurationError{where + ".via", "destination and gateway are of different families"};
      if (!is_assignable(route.via)) return ConfigurationError{where + ".via", "cannot be a gateway"};
      if (out.ours.find(route.via) != nullptr) return ConfigurationError{where + ".via", "is our own address"};
      if (route.port == kNoPort) {  // the port whose subnet has the gateway
        const Route* link = out.routes.lookup(route.via);
        if (link == nullptr || !link->on_link()) return ConfigurationError{where + ".via", "is on no port's subnet"};
        route.port = link->port;
      }
    }
    if (route.port >= out.ports.size()) return ConfigurationError{where + ".port", "is no port of the list"};
    if (!out.routes.add(route)) return ConfigurationError{where, "too many routes"};
  }
  return std::nullopt;
}

unsigned common_bits(const IpAddress& a, const IpAddress& b) {
  for (unsigned i = 0; i < 16; ++i)
    if (const unsigned differ = a.bytes()[i] ^ b.bytes()[i]; differ != 0)
      return i * 8 + static_cast<unsigned>(__builtin_clz(differ)) - 24;
  return 128;
}

}  // namespace

Error Configuration::build(const ConfigurationDescription& description, Configuration& out) {
  out = Configuration{};
  if (Error error = check_ports(description)) return error;
  out.ports = description.ports;
  out.tunnel = description.tunnel;
  out.nat = description.nat;
  out.exception = description.exception;
  out.inner_mtu = description.inner_mtu;
  if (out.inner_mtu < 1280 || out.inner_mtu > 9000) return ConfigurationError{"mtu", "must lie in 1280-9000"};
  for (std::size_t i = 0; i < out.ports.size(); ++i) {
    const auto index = static_cast<PortIndex>(i);
    out.port_mac[i] = out.ports[i].mac;
    for (const InterfaceAddress& address : out.ports[i].addresses)
      out.ours.add(address.address, address_use::port, index);
    out.ours.add(link_local_of(out.ports[i].mac), address_use::port, index);
  }
  if (Error error = fill_tunnel(out)) return error;
  // A full inner packet must fit an outer one: the tunnel's header and tag are 32 bytes, UDP's 8 (whitepaper §5.4.6).
  const std::uint32_t overhead = 40U + (out.tunnel_v6.is_unspecified() ? sizeof(Ipv4Header) : sizeof(Ipv6Header));
  if (out.inner_mtu + overhead > out.ports[out.tunnel.port].mtu)
    return ConfigurationError{
        "mtu", "does not fit the tunnel's port with " + std::to_string(overhead) + " bytes of headers around it"};
  if (Error error = fill_nat(out)) return error;
  return fill_routes(description, out);
}

IpAddress Configuration::source_for(PortIndex port, const IpAddress& destination) const {
  const bool four = destination.is_v4();
  const bool link_local = !four && destination.bytes()[0] == 0xfe && (destination.bytes()[1] & 0xc0) == 0x80;
  if (link_local) return link_local_of(ports[port].mac);
  const InterfaceAddress* best = nullptr;
  unsigned best_bits = 0;
  for (const InterfaceAddress& candidate : ports[port].addresses) {
    if (candidate.address.is_v4() != four) continue;
    const unsigned bits = common_bits(candidate.address, destination);
    if (best == nullptr || bits > best_bits) {
      best = &candidate;
      best_bits = bits;
    }
  }
  if (best != nullptr) return best->address;
  for (const PortConfiguration& other : ports)
    for (const InterfaceAddress& candidate : other.addresses)
      if (candidate.address.is_v4() == four) return candidate.address;
  return four ? nat_v4 : nat_v6;
}

IpAddress link_local_of(const MacAddress& mac) {
  return IpAddress::v6({0xfe, 0x80, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(mac[0] ^ 0x02), mac[1], mac[2], 0xff,
                        0xfe, mac[3], mac[4], mac[5]});
}

IpAddress solicited_node_of(const IpAddress& address) {
  const auto& bytes = address.bytes();
  return IpAddress::v6({0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, bytes[13], bytes[14], bytes[15]});
}

}  // namespace penstock::gateway
