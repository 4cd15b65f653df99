// The generator's WireGuard clients: keys and addresses that follow from a seed and a number, so that the device under
// test can be configured before the generator runs. They protect nothing and must never be used for anything else.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/core/base/address.h"
#include "dataplane/core/wireguard/keys.h"
#include "perf/generator/options.h"

namespace penstock::generator {

struct TestPeer {
  wireguard::PrivateKey private_key;
  wireguard::PublicKey public_key;
  IpAddress tunnel_v4;
  IpAddress tunnel_v6;
};

[[nodiscard]] TestPeer test_peer(const std::string& seed, std::uint32_t number);

// The `static:` section of penstock-dataplane's configuration: every peer may reach `options.server` through
// `options.destination`.
void print_static_section(const Options& options);

}  // namespace penstock::generator
