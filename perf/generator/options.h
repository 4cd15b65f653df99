// What the packet generator is told on its command line, checked and complete.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/wireguard/keys.h"

namespace penstock::generator {

enum class Direction : std::uint8_t { up, down };
enum class Translation : std::uint8_t { nat64, nat44 };

struct Options {
  // Devices as in the data plane's configuration.
  std::string wan_device;
  std::string lan_device;
  std::uint32_t memory_mb = 256;
  std::optional<std::uint16_t> core;

  // Us on the tunnel's side: `wan_addresses` addresses from `wan_address` on; the device under test's tunnel endpoint.
  IpAddress wan_address;
  std::uint32_t wan_addresses = 1;
  Endpoint gateway;
  std::optional<MacAddress> gateway_mac;  // default: asked for
  // Us on the LAN: the server that all flows go to.
  Endpoint server;
  IpAddress lan_gateway;  // whose MAC address packets from the server get
  std::optional<MacAddress> lan_gateway_mac;

  wireguard::PublicKey gateway_key;  // zero with `plain`
  bool plain = false;                // no WireGuard: inner packets go over the WAN as they are
  std::string seed = "penstock";     // of the test keys
  std::uint32_t peers = 16;
  std::uint32_t flows = 256;
  std::uint32_t first_peer = 0;
  Translation translation = Translation::nat64;
  IpAddress destination;  // what inner packets are sent to: the proxy address, or for `plain` the embedded one
  IpAddress source;       // `plain` only: the inner source
  std::string aead = "auto";

  std::vector<Direction> directions = {Direction::up, Direction::down};
  std::vector<std::string> sizes = {"64", "imix", "1420"};
  double rate = 0;  // packets per second; 0: search for the no-drop rate, negative: as fast as it goes
  double seconds = 2;
  double tolerance = 0;         // share of packets that may be lost at the no-drop rate
  double resolution = 0.02;     // the search ends when the bounds are this close
  unsigned retries = 2;         // a lossy trial is repeated this often before its rate counts as too high
  double highest_rate = 40e6;   // where the search begins at most
  double latency_share = 0;     // then measure latency at this share of the rate found; 0: do not

  std::string json;  // file; empty: none
};

// Exits with a usage message when the command line is wrong. `keys`: set when only the test keys are to be printed.
[[nodiscard]] Options parse_options(int argc, char** argv, bool& keys);

// Bytes of inner packets in the order they are sent, for "64" … "9000" or "imix" (7:4:1 of 64, 576, 1420).
[[nodiscard]] std::vector<std::uint16_t> sizes_of(const std::string& size);

}  // namespace penstock::generator
