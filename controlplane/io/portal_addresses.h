// The portal's "host:port" as addresses to dial, both families interleaved, IPv6 first (RFC 8305 §4). Blocking
// (getaddrinfo): never on a loop's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"

namespace penstock::io {

struct HostPort {
  std::string host;  // without brackets
  std::uint16_t port = 0;
};

// nullopt unless "host:port", "1.2.3.4:port" or "[v6]:port" with a port in 1–65535.
[[nodiscard]] std::optional<HostPort> parse_host_port(const std::string& text);

// Empty, and `error` set, when the name has no address.
[[nodiscard]] std::vector<Endpoint> resolve_blocking(const HostPort& host_port, std::string& error);

[[nodiscard]] std::vector<Endpoint> interleave_families(const std::vector<Endpoint>& endpoints);

}  // namespace penstock::io
