// What strangers send to the gateway, and what peers send who are not to be trusted.
#pragma once

#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {

inline const Endpoint kTunnel{ip("198.51.100.194"), kDefaultListenPort};
inline const Endpoint kStranger{ip("198.51.100.66"), 6666};
inline const MacAddress kAnybody = {2, 0, 0, 0, 7, 7};

inline Octets from_stranger(const Octets& payload) {
  return frame(kRouterMac, kWanMac, udp_packet(kStranger, kTunnel, payload));
}

inline Octets spoilt(Octets bytes, std::size_t at, std::uint8_t mask = 1) {
  bytes[at] ^= mask;
  return bytes;
}

inline Octets stun_request() {
  std::array<std::uint8_t, 64> buffer;
  return copy(stun::build_binding_request(buffer, stun::TransactionId{9}));
}

inline Octets control_packet(std::uint8_t type, const Octets& payload) {
  std::array<std::uint8_t, 40> header;
  wireguard::write_control_header(header, wireguard::ControlDirection::to_gateway,
                                  static_cast<std::uint16_t>(payload.size() + 1));
  return Octets(header.begin(), header.end()) + Octets{type} + payload;
}

}  // namespace penstock::gateway::test
