// The gateway's YAML file (docs/configuration.md), read, checked and complete. No error shows the token. Start-up only.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "controlplane/core/gateway_agent/gateway_agent.h"
#include "controlplane/io/signaling_client.h"

namespace penstock::gateway {

struct Config {
  std::string dataplane_socket = "/run/penstock/dataplane.sock";
  std::string control_socket = "/run/penstock/gateway.sock";
  io::SignalingConfig portal;
  std::vector<Endpoint> nameservers;  // empty: the system's
  bool goodbye_on_exit = false;
  gateway_agent::AgentConfig agent;
};

struct ConfigError {
  std::string key;  // "portal.address"; empty: the file as a whole
  std::string reason;
};

[[nodiscard]] std::variant<Config, ConfigError> load_config(const std::string& file);

}  // namespace penstock::gateway
