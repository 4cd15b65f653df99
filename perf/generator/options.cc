#include "perf/generator/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace penstock::generator {
namespace {

[[noreturn]] void refuse(const std::string& option, const std::string& value) {
  std::fprintf(stderr, "penstock-generator: %s: not understood: %s\n", option.c_str(), value.c_str());
  std::exit(2);
}

IpAddress address(const std::string& option, const std::string& text) {
  const auto parsed = IpAddress::parse(text);
  if (!parsed) refuse(option, text);
  return *parsed;
}

Endpoint endpoint(const std::string& option, const std::string& text, std::uint16_t port) {
  if (const auto parsed = Endpoint::parse(text)) return *parsed;
  return {address(option, text), port};
}

std::optional<MacAddress> mac(const std::string& option, const std::string& text) {
  if (text.empty()) return std::nullopt;
  MacAddress out{};
  int used = 0;
  if (std::sscanf(text.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx%n", &out[0], &out[1], &out[2], &out[3], &out[4], &out[5],
                  &used) != 6 ||
      static_cast<std::size_t>(used) != text.size())
    refuse(option, text);
  return out;
}

double rate_of(const std::string& text) {
  if (text == "search") return 0;
  if (text == "max") return -1;
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (*end == 'k') value *= 1e3, ++end;
  if (*end == 'M') value *= 1e6, ++end;
  if (*end != '\0' || !(value > 0)) refuse("--rate", text);
  return value;
}

}  // namespace

std::vector<std::uint16_t> sizes_of(const std::string& size) {
  // 7:4:1, spread so that neighbours differ.
  if (size == "imix") return {64, 576, 64, 64, 576, 64, 1420, 64, 576, 64, 64, 576};
  const unsigned long bytes = std::strtoul(size.c_str(), nullptr, 10);
  if (bytes < 64 || bytes > 9000) refuse("--sizes", size + " (64 to 9000, or imix)");
  return {static_cast<std::uint16_t>(bytes)};
}

Options parse_options(int argc, char** argv, bool& keys) {
  CLI::App app("Penstock's packet generator: WireGuard clients on one port, the LAN's server on the other");
  Options out;
  std::string wan_address = "198.51.100.130", gateway = "198.51.100.1", server = "203.0.113.80",
              lan_gateway = "203.0.113.1", destination = "fd00:2021:1111:8000::1", source, gateway_mac, lan_gateway_mac,
              key, rate = "search", translation = "nat64";
  std::vector<std::string> directions = {"up", "down"};

  auto* print = app.add_subcommand("keys", "print the test peers as the data plane's `static:` section, and end");
  app.add_option("--wan", out.wan_device, "device towards the tunnel port: a DPDK vdev string or a PCI address");
  app.add_option("--lan", out.lan_device, "device towards the LAN port");
  app.add_option("--memory-mb", out.memory_mb)->capture_default_str();
  app.add_option("--core", out.core, "core to run on");
  app.add_option("--wan-address", wan_address, "first address of the clients")->capture_default_str();
  app.add_option("--wan-addresses", out.wan_addresses, "how many; clients are spread over them")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--gateway", gateway, "tunnel address[:port] of the device under test")->capture_default_str();
  app.add_option("--gateway-mac", gateway_mac, "its MAC address; default: ARP");
  app.add_option("--server", server, "address[:port] of the server on the LAN")->capture_default_str();
  app.add_option("--lan-gateway", lan_gateway, "the device under test's address there")->capture_default_str();
  app.add_option("--lan-gateway-mac", lan_gateway_mac, "its MAC address; default: ARP");
  app.add_option("--gateway-key", key, "public key of the device under test");
  app.add_flag("--plain", out.plain, "no WireGuard: inner packets as they are");
  app.add_option("--seed", out.seed, "of the test keys: anybody who knows it knows them")->capture_default_str();
  app.add_option("--peers", out.peers)->capture_default_str()->check(CLI::Range(1, 100000));
  app.add_option("--first-peer", out.first_peer, "number of the first: several generators share one set")
      ->capture_default_str();
  app.add_option("--flows", out.flows, "UDP flows over all peers")
      ->capture_default_str()
      ->check(CLI::Range(1, 4000000));
  app.add_option("--translation", translation, "nat64 or nat44")->capture_default_str()->check(
      CLI::IsMember({"nat64", "nat44"}));
  app.add_option("--destination", destination, "of inner packets: the proxy address")->capture_default_str();
  app.add_option("--source", source, "of inner packets, with --plain");
  app.add_option("--aead", out.aead)->capture_default_str();
  app.add_option("--directions", directions, "up, down")->delimiter(',')->check(CLI::IsMember({"up", "down"}));
  app.add_option("--sizes", out.sizes, "bytes of inner packets, or imix")->delimiter(',');
  app.add_option("--rate", rate, "packets per second (2.5M, 100k), max, or search: RFC 2544's no-drop rate")
      ->capture_default_str();
  app.add_option("--seconds", out.seconds, "of one trial")->capture_default_str()->check(CLI::Range(0.05, 60.0));
  app.add_option("--tolerance", out.tolerance, "share of packets that may be lost")->capture_default_str();
  app.add_option("--resolution", out.resolution, "of the search, as a share")->capture_default_str()->check(
      CLI::Range(0.001, 0.5));
  app.add_option("--retries", out.retries, "repetitions before a lossy rate is given up")->capture_default_str();
  app.add_option("--highest-rate", out.highest_rate)->capture_default_str();
  app.add_option("--latency-share", out.latency_share, "then measure latency at this share of the rate")
      ->check(CLI::Range(0.01, 1.0));
  app.add_option("--json", out.json, "write results there, one object per line");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }

  keys = print->parsed();
  out.wan_address = address("--wan-address", wan_address);
  out.gateway = endpoint("--gateway", gateway, 51820);
  out.gateway_mac = mac("--gateway-mac", gateway_mac);
  out.server = endpoint("--server", server, 7000);
  out.lan_gateway = address("--lan-gateway", lan_gateway);
  out.lan_gateway_mac = mac("--lan-gateway-mac", lan_gateway_mac);
  out.translation = translation == "nat64" ? Translation::nat64 : Translation::nat44;
  if (out.translation == Translation::nat44 && destination == "fd00:2021:1111:8000::1") destination = "100.96.0.1";
  out.destination = address("--destination", destination);
  if (!source.empty()) out.source = address("--source", source);
  out.rate = rate_of(rate);
  out.directions.clear();
  for (const auto& direction : directions)
    out.directions.push_back(direction == "up" ? Direction::up : Direction::down);
  for (const auto& size : out.sizes) (void)sizes_of(size);
  if (!out.wan_address.is_v4() || !out.gateway.address.is_v4() || !out.server.address.is_v4()) {
    std::fprintf(stderr, "penstock-generator: the outer network and the LAN are IPv4 here\n");
    std::exit(2);
  }
  if (out.destination.is_v4() != (out.translation == Translation::nat44)) refuse("--destination", destination);
  if (keys) return out;
  if (out.wan_device.empty() || out.lan_device.empty()) refuse("--wan, --lan", "both are needed");
  if (out.plain) {
    if (source.empty() || out.source.is_v4() != out.destination.is_v4()) refuse("--source", source + " (for --plain)");
    out.peers = 1;
  } else {
    const auto parsed = wireguard::PublicKey::parse(key);
    if (!parsed) refuse("--gateway-key", key);
    out.gateway_key = *parsed;
  }
  out.flows = std::max(out.flows, out.peers);
  return out;
}

}  // namespace penstock::generator
