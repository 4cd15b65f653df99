// The portal's YAML file (docs/configuration.md), read, checked and complete. Secrets and certificates are read from
// the files it names; no error ever shows any of their content. Start-up and reload only; one thread.
#pragma once

#include <string>
#include <variant>

#include "controlplane/core/broker/config.h"

namespace penstock::portal {

struct Config {
  std::string control_socket = "/run/penstock/portal.sock";
  std::string listen = "127.0.0.1:8443";
  std::string certificate_pem;
  std::string key_pem;
  std::string secret_file = "/var/lib/penstock/portal/secret";
  std::string state_file;  // default: `state` beside secret_file
  broker::BrokerConfig broker;
};

struct ConfigError {
  std::string key;  // "clients[0].token_sha256"; empty: the file as a whole
  std::string reason;
};

[[nodiscard]] std::variant<Config, ConfigError> load_config(const std::string& file);

// What preshared keys derive from: 32 bytes or more in a file of mode 0600, made with random content when absent.
// Empty, and `error` set, when it cannot be had.
[[nodiscard]] std::string load_secret(const std::string& file, std::string& error);

}  // namespace penstock::portal
