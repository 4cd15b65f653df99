// The data plane's YAML file (docs/configuration.md) as structs, read, checked and complete: what is here can be used
// without further validation. Unknown and repeated keys, wrong types and impossible values are errors that name file,
// key and reason. No secret ever appears in an error.
//
// Start-up only: one thread, may allocate and read files. MTUs are bytes without the link header.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/runtime/policy_spec.h"

namespace penstock::runtime {

enum class Hugepages : std::uint8_t { automatic, yes, no };
enum class PollMode : std::uint8_t { busy, adaptive };
enum class NatLog : std::uint8_t { off, bindings, sessions };

// What the packet path does not know of a port.
struct PortDevice {
  std::string device;             // DPDK vdev string or PCI address
  std::optional<MacAddress> mac;  // default: the device's own
};

struct Config {
  std::string file;
  std::string control_socket = "/run/penstock/dataplane.sock";
  std::vector<std::uint32_t> allowed_uids{0};
  // How long sessions and flows wait in memory for the process that takes this one's place; 0: they end with it.
  Duration handover = std::chrono::seconds{10};
  std::string private_key_file = "/var/lib/penstock/dataplane/key";

  // Ports, addresses, routes, tunnel, translation. MAC addresses are filled in when the ports are open, unless given.
  gateway::ConfigurationDescription path;
  std::vector<PortDevice> devices;  // one for each of path.ports

  std::uint32_t max_peers = 65536;

  Hugepages hugepages = Hugepages::automatic;
  std::uint32_t memory_mb = 512;
  std::vector<std::string> eal_arguments;

  std::uint16_t workers = 1;
  std::vector<std::uint16_t> cores;  // empty: not pinned
  PollMode poll = PollMode::adaptive;
  std::string aead = "auto";
  bool own_blake2s = true;              // off: OpenSSL's
  std::uint16_t handshake_threads = 1;  // 0: the slow thread does them

  std::string exception_tap;  // empty: none
  SiteSpec site;               // what this file says of it, whatever the control side says
  NatLog nat_log = NatLog::off;
  std::vector<Endpoint> stun_servers;
  PoolsSpec pools;
  std::vector<Operation> static_operations;  // peers first, then their authorisations and translations
  std::vector<std::string> static_keys;      // the key path of each operation, for error messages
};

struct ConfigError {
  std::string file;
  std::string key;  // "ports[0].mtu"; empty: the file as a whole
  std::string reason;
  // "FILE: key.path: reason"
  [[nodiscard]] std::string to_string() const;
};

using ConfigResult = std::variant<Config, ConfigError>;

// Reads the file, and the preshared keys it names; does not touch the private key (see key_file.h).
[[nodiscard]] ConfigResult load_config(const std::string& file);

// The same over text; `file` is only for messages.
[[nodiscard]] ConfigResult parse_config(const std::string& text, const std::string& file);

}  // namespace penstock::runtime
