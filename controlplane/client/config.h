// The client's YAML file (docs/configuration.md), read, checked and complete; a gateway file, if it names one, with it.
// No error ever shows the content of a key or token. Start-up only; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "controlplane/core/client_agent/client_agent.h"
#include "controlplane/io/signaling_client.h"

namespace penstock::client {

enum class DnsMode : std::uint8_t { resolv_conf, off };

struct GatewayFile {
  StaticGateway gateway;
  dns::NameMapConfig names;
  dns::StubResolverConfig resolver;
};

struct Config {
  std::string control_socket = "/run/penstock/client.sock";
  std::optional<io::SignalingConfig> portal;  // or gateway_file
  std::string state_directory = "/var/lib/penstock/client";
  std::string private_key_file;
  std::string tun_name = "penstock0";
  std::uint16_t mtu = 1280;
  std::uint16_t listen_port = 0;
  bool offload = true;  // of the TUN device and the sockets, as far as the kernel has it
  ProtocolVersion protocol = kProtocolVersion;
  std::string proxy;  // "host:port": HTTP proxy to the portal and to relays over TCP and TLS; empty: none
  DnsMode dns_mode = DnsMode::resolv_conf;
  std::vector<Endpoint> upstreams;
  std::optional<GatewayFile> gateway_file;
};

struct ConfigError {
  std::string file;  // the gateway file has its own
  std::string key;   // "dns.upstreams[0]"; empty: the file as a whole
  std::string reason;
};

[[nodiscard]] std::variant<Config, ConfigError> load_config(const std::string& file);

}  // namespace penstock::client
