#include "dataplane/runtime/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "dataplane/gateway/worker.h"
#include "dataplane/runtime/config_static.h"
#include "dataplane/runtime/policy_store.h"
#include "dataplane/runtime/yaml_reader.h"

namespace penstock::runtime {
namespace {

constexpr std::size_t kMaxFileSize = 256U << 20;

void read_control(YamlMap root, Config& config) {
  if (auto socket = root["socket"]; !socket.absent()) config.control_socket = socket.text();
  // sockaddr_un holds 108 bytes with the closing zero.
  if (config.control_socket.size() > 107) root["socket"].fail("is longer than 107 bytes");
  if (auto uids = root["allowed_uids"]; !uids.absent()) {
    config.allowed_uids.clear();
    for (const auto& uid : uids.list())
      config.allowed_uids.push_back(static_cast<std::uint32_t>(uid.integer(0, 0xfffffffe)));
  }
  root.finish();
}

void read_dpdk(YamlMap root, Config& config) {
  if (auto value = root["hugepages"]; !value.absent()) {
    const std::string text = value.text();
    if (text == "auto") {
      config.hugepages = Hugepages::automatic;
    } else if (text == "true") {
      config.hugepages = Hugepages::yes;
    } else if (text == "false") {
      config.hugepages = Hugepages::no;
    } else {
      value.fail("must be auto, true or false");
    }
  }
  if (auto value = root["memory_mb"]; !value.absent())
    config.memory_mb = static_cast<std::uint32_t>(value.integer(64, 1U << 20));
  for (const auto& argument : root["extra_args"].list()) config.eal_arguments.push_back(argument.text());
  root.finish();
}

void read_workers(YamlMap root, Config& config) {
  if (auto value = root["count"]; !value.absent())
    config.workers = static_cast<std::uint16_t>(value.integer(1, gateway::kMaxWorkers));
  const YamlValue cores = root["cores"];
  for (const auto& core : cores.list()) {
    const auto number = static_cast<std::uint16_t>(core.integer(0, 1023));
    if (std::count(config.cores.begin(), config.cores.end(), number) != 0) core.fail("is listed twice");
    config.cores.push_back(number);
  }
  if (!config.cores.empty() && config.cores.size() != config.workers)
    cores.fail(fmt::format("must list one core for each of the {} workers", config.workers));
  if (auto value = root["poll"]; !value.absent()) {
    const std::string text = value.text();
    if (text != "busy" && text != "adaptive") value.fail("must be busy or adaptive");
    config.poll = text == "busy" ? PollMode::busy : PollMode::adaptive;
  }
  root.finish();
}

gateway::InterfaceAddress read_interface_address(const YamlValue& value) {
  const std::string text = value.text();
  const std::size_t slash = text.find('/');
  const auto address = IpAddress::parse(std::string_view(text).substr(0, slash));
  const char* const expected = "must be an address with a prefix length (203.0.113.1/24, 2001:db8:1a::1/64)";
  if (!address || slash == std::string::npos) value.fail(expected);
  const YamlValue length(YAML::Node(text.substr(slash + 1)), value.path());
  return {*address, static_cast<std::uint8_t>(length.integer(0, address->is_v4() ? 32 : 128))};
}

bool is_pci_address(std::string_view text) {
  // [domain:]bus:device.function
  if (text.size() == 12 && text[4] == ':') text.remove_prefix(5);
  const std::string_view shape = "hh:hh.o";
  if (text.size() != shape.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (shape[i] == 'h' ? std::isxdigit(c) == 0 : shape[i] == 'o' ? (c < '0' || c > '7') : c != shape[i]) return false;
  }
  return true;
}

// "net_af_packet0" of "net_af_packet0,iface=gw-wan".
std::string device_id(const std::string& device) {
  return device.substr(0, device.find(','));
}

void read_ports(const YamlValue& list, Config& config) {
  std::set<std::string> names;
  std::set<std::string> devices;
  const auto entries = list.list();
  if (entries.empty()) list.fail("needs at least one port");
  if (entries.size() > gateway::kMaxPorts) list.fail(fmt::format("has more than {} ports", gateway::kMaxPorts));
  for (const auto& entry : entries) {
    YamlMap root(entry);
    gateway::PortConfiguration port;
    PortDevice device;
    const YamlValue name = root.require("name");
    port.name = name.text();
    const bool good = port.name.size() <= 32 && std::all_of(port.name.begin(), port.name.end(), [](unsigned char c) {
                        return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
                      });
    if (!good) name.fail("must be up to 32 letters, digits, '-', '_' and '.'");
    if (!names.insert(port.name).second) name.fail("is the name of another port too");
    const YamlValue id = root.require("device");
    device.device = id.text();
    if (!device.device.starts_with("net_") && !is_pci_address(device_id(device.device)))
      id.fail("must be a DPDK device (net_af_packet0,iface=eth1) or a PCI address (0000:03:00.0)");
    if (!devices.insert(device_id(device.device)).second) id.fail("is the device of another port too");
    for (const auto& address : root["addresses"].list()) port.addresses.push_back(read_interface_address(address));
    if (auto mtu = root["mtu"]; !mtu.absent()) port.mtu = static_cast<std::uint16_t>(mtu.integer(576, 9600));
    if (auto vlan = root["vlan"]; !vlan.absent()) port.vlan = static_cast<std::uint16_t>(vlan.integer(0, 4094));
    if (auto mac = root["mac"]; !mac.absent()) port.mac = *(device.mac = mac.mac());
    root.finish();
    config.path.ports.push_back(std::move(port));
    config.devices.push_back(std::move(device));
  }
}

PortIndex port_named(const YamlValue& value, const Config& config) {
  const std::string name = value.text();
  for (std::size_t i = 0; i < config.path.ports.size(); ++i)
    if (config.path.ports[i].name == name) return static_cast<PortIndex>(i);
  value.fail("no port has the name " + name);
}

void read_tunnel(YamlMap root, Config& config) {
  auto& tunnel = config.path.tunnel;
  tunnel.port = port_named(root.require("port"), config);
  if (auto port = root["listen_port"]; !port.absent())
    tunnel.listen_port = static_cast<std::uint16_t>(port.integer(1, 65535));
  for (const auto& address : root["addresses"].list()) tunnel.addresses.push_back(address.address());
  root.finish();
}

void read_routes(const YamlValue& list, Config& config) {
  for (const auto& entry : list.list()) {
    YamlMap root(entry);
    gateway::Route route;
    route.to = root.require("to").prefix();
    if (auto via = root["via"]; !via.absent()) {
      route.via = via.address();
      if (route.via.is_unspecified()) via.fail("must not be the unspecified address");
    }
    route.port = port_named(root.require("port"), config);
    root.finish();
    config.path.routes.push_back(route);
  }
}

void read_nat(YamlMap root, Config& config) {
  auto& nat = config.path.nat;
  for (const auto& address : root["source_addresses"].list()) nat.source_addresses.push_back(address.address());
  if (auto ports = root["ports"]; !ports.absent()) {
    std::tie(nat.first_port, nat.last_port) = ports.port_range();
    // Each worker allocates pairs of its own: (port / 2) % workers.
    if (nat.last_port - nat.first_port + 1 < 4 * config.workers)
      ports.fail(fmt::format("must have at least {} ports for {} workers", 4 * config.workers, config.workers));
  }
  if (auto value = root["max_flows"]; !value.absent())
    nat.max_flows = static_cast<std::uint32_t>(value.integer(config.workers, 1U << 28));
  if (auto value = root["max_flows_per_peer"]; !value.absent())
    nat.max_flows_per_peer = static_cast<std::uint32_t>(value.integer(1, 1U << 28));
  const auto one_of = [](const YamlValue& value, std::initializer_list<const char*> words) {
    const std::string text = value.text();
    std::size_t at = 0;
    std::string all;
    for (const char* word : words) {
      if (text == word) return at;
      all += (at++ == 0 ? "" : ", ") + std::string(word);
    }
    value.fail("must be one of " + all);
  };
  SiteSpec& site = config.site;
  if (auto value = root["source_nat"]; !value.absent()) site.source_nat = one_of(value, {"off", "on"}) == 1;
  if (auto value = root["mapping"]; !value.absent())
    site.mapping = static_cast<nat::Mapping>(one_of(value, {"address_and_port_dependent", "endpoint_independent"}));
  if (auto value = root["filtering"]; !value.absent()) {
    site.filtering = static_cast<nat::Filtering>(
        one_of(value, {"address_and_port_dependent", "address_dependent", "endpoint_independent"}));
    if (site.filtering != nat::Filtering::address_and_port_dependent &&
        site.mapping != nat::Mapping::endpoint_independent)
      value.fail("needs mapping: endpoint_independent");
  }
  if (auto value = root["unsolicited"]; !value.absent())
    nat.unsolicited = static_cast<nat::Unsolicited>(one_of(value, {"pass", "answer"}));
  if (auto value = root["hairpinning"]; !value.absent()) {
    nat.hairpinning = one_of(value, {"off", "on"}) == 1;
    // Whoever is called has not called before.
    if (nat.hairpinning && site.filtering.value_or(nat::Filtering::address_and_port_dependent) ==
                               nat::Filtering::address_and_port_dependent)
      value.fail("needs filtering: address_dependent or endpoint_independent");
  }
  if (auto value = root["lowest_ipv6_mtu"]; !value.absent())
    nat.lowest_ipv6_mtu = static_cast<std::uint16_t>(value.integer(1280, 65535));
  if (auto value = root["log"]; !value.absent())
    config.nat_log = static_cast<NatLog>(one_of(value, {"off", "bindings", "sessions"}));
  root.finish();
}

void read_exception(YamlMap root, Config& config) {
  if (auto tap = root["tap"]; !tap.absent()) {
    config.exception_tap = tap.text();
    // IFNAMSIZ holds 16 bytes with the closing zero.
    if (config.exception_tap.size() > 15 || config.exception_tap.find_first_of("/ %:") != std::string::npos)
      tap.fail("must be an interface name of up to 15 characters");
    config.path.exception.enabled = true;
  }
  root.finish();
}

void read_pools(YamlMap root, Config& config) {
  const std::pair<const char*, Prefix*> pools[] = {{"tunnel_v4", &config.pools.tunnel_v4},
                                                   {"tunnel_v6", &config.pools.tunnel_v6},
                                                   {"proxy_v4", &config.pools.proxy_v4},
                                                   {"proxy_v6", &config.pools.proxy_v6}};
  for (const auto& [key, pool] : pools) {
    const YamlValue value = root[key];
    if (value.absent()) continue;
    *pool = value.prefix();
    if (pool->address().is_v4() != std::string_view(key).ends_with("v4")) value.fail("is of the other family");
  }
  root.finish();
}

void read_root(const YAML::Node& document, Config& config) {
  YamlMap root(YamlValue(document, ""));
  read_control(YamlMap(root["control"]), config);
  if (auto file = root["private_key_file"]; !file.absent()) config.private_key_file = file.text();
  if (auto handover = root["handover"]; !handover.absent()) {
    config.handover = handover.duration();
    if (config.handover > std::chrono::seconds{60}) handover.fail("must be at most 60s");
  }
  read_dpdk(YamlMap(root["dpdk"]), config);
  read_workers(YamlMap(root["workers"]), config);
  if (auto aead = root["aead"]; !aead.absent()) {
    config.aead = aead.text();
    if (config.aead != "auto" && config.aead != "lanes" && config.aead != "ipsec-mb" && config.aead != "openssl")
      aead.fail("must be auto, lanes, ipsec-mb or openssl");
  }
  if (auto blake2s = root["blake2s"]; !blake2s.absent()) {
    const std::string whose = blake2s.text();
    config.own_blake2s = whose == "own";
    if (whose != "own" && whose != "openssl") blake2s.fail("must be own or openssl");
  }
  if (auto threads = root["handshake_threads"]; !threads.absent())
    config.handshake_threads = static_cast<std::uint16_t>(threads.integer(0, 32));
  read_ports(root.require("ports"), config);
  read_tunnel(YamlMap(root.require("tunnel")), config);
  if (auto mtu = root["mtu"]; !mtu.absent())
    config.path.inner_mtu = static_cast<std::uint16_t>(mtu.integer(1280, 9000));
  if (auto peers = root["max_peers"]; !peers.absent())
    config.max_peers = static_cast<std::uint32_t>(peers.integer(1, 1U << 22));
  read_routes(root["routes"], config);
  read_nat(YamlMap(root["nat"]), config);
  read_exception(YamlMap(root["exception"]), config);
  YamlMap stun(root["stun"]);
  for (const auto& server : stun["servers"].list()) config.stun_servers.push_back(server.endpoint());
  stun.finish();
  read_pools(YamlMap(root["pools"]), config);
  config.path.nat.routed = {config.pools.tunnel_v4, config.pools.tunnel_v6};
  const YamlValue statics = root["static"];
  root.finish();

  gateway::Configuration built;
  if (const auto error = gateway::Configuration::build(config.path, built))
    throw YamlFailure{error->key, error->reason};
  read_static(statics, config);
  check_static(built, config);
}

}  // namespace

std::string ConfigError::to_string() const {
  return key.empty() ? fmt::format("{}: {}", file, reason) : fmt::format("{}: {}: {}", file, key, reason);
}

ConfigResult parse_config(const std::string& text, const std::string& file) {
  Config config;
  config.file = file;
  try {
    read_root(YAML::Load(text), config);
  } catch (const YamlFailure& failure) {
    return ConfigError{file, failure.key, failure.reason};
  } catch (const YAML::Exception& error) {
    return ConfigError{file, fmt::format("line {}", error.mark.line + 1), "is not YAML: " + error.msg};
  }
  return config;
}

ConfigResult load_config(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return ConfigError{file, "", std::string("cannot be read: ") + std::strerror(errno)};
  std::string text;
  char block[65536];
  while (in.read(block, sizeof block) || in.gcount() > 0) {
    text.append(block, static_cast<std::size_t>(in.gcount()));
    if (text.size() > kMaxFileSize) return ConfigError{file, "", "is larger than 256 MiB"};
  }
  if (in.bad()) return ConfigError{file, "", "cannot be read"};
  return parse_config(text, file);
}

}  // namespace penstock::runtime
