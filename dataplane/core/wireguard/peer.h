// What the Device is told about a peer, and what it tells about one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/keys.h"

namespace penstock::wireguard {

struct PeerConfig {
  PublicKey public_key{};                    // identity
  PresharedKey preshared_key{};              // zeroes: none
  std::uint16_t persistent_keepalive_s = 0;  // seconds; 0: off
  // Penstock peers: the endpoint follows path switches (Device::set_endpoint), not the source of packets; handshakes
  // are retried quickly and over several paths (paths.md "First packet").
  bool path_switch = false;
  // Protocol 1.0 peers: the endpoint is taken from the handshake that sets the tunnel up and stays until the session
  // is dead.
  bool pinned_endpoint = false;
  std::vector<Endpoint> endpoints;  // known addresses, best first; hints for the first initiation

  bool operator==(const PeerConfig&) const = default;
};

struct PeerTraffic {
  std::uint64_t received_packets = 0, received_bytes = 0;  // outer UDP payload, authenticated data messages only
  std::uint64_t sent_packets = 0, sent_bytes = 0;
};

// For `show peers`; holds no secret.
struct PeerInfo {
  PeerConfig config;  // preshared_key is zeroes
  std::optional<Path> endpoint;
  std::optional<WallTime> last_handshake;  // when the current session was made
  std::optional<Instant> last_received;    // any authenticated message; granularity of DeviceConfig
  std::optional<Instant> last_sent;
  bool session = false;      // usable for sending now
  bool initiator = false;    // of that session
  bool handshaking = false;  // initiations are being sent
  PeerTraffic traffic;
};

}  // namespace penstock::wireguard
