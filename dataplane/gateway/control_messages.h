// In-tunnel control (docs/agreements.md): IPv6 fe80::1 → fe80::2 from client to gateway and back, next header 253, hop
// limit 255; the first byte of the payload tells what it is. Probes have a fixed layout, control messages are protobuf
// for the control process.
#pragma once

#include <cstdint>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

enum class ControlType : std::uint8_t { probe = 1, probe_reply = 2, control = 3 };

inline constexpr std::array<std::uint8_t, 16> kControlClient = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
inline constexpr std::array<std::uint8_t, 16> kControlGateway = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
inline constexpr std::uint8_t kControlHopLimit = 255;
inline constexpr std::uint8_t kProbeVersion = 1;

struct Probe {
  std::uint8_t type;
  std::uint8_t version;
  be16 path;             // the client's number of the path it was sent on
  be32 switch_sequence;  // higher than seen: this path is to be used from now on
  be64 id;
  be64 sent_at;  // the client's clock; echoed
};
static_assert(sizeof(Probe) == 24 && alignof(Probe) == 1);

// Exactly the pair, header and hop limit that are exempt from the allowed-source check, client to gateway.
// Precondition: an IPv6 header is there.
[[nodiscard]] inline bool is_tunnel_control(Bytes packet) {
  const auto* header = reinterpret_cast<const Ipv6Header*>(packet.data());
  return header->next_header == ip_protocol::experimental_253 && header->hop_limit == kControlHopLimit &&
         header->source == kControlClient && header->destination == kControlGateway;
}

// Turns a client's probe (data at the inner IPv6 header) into its reply, in place. False: it is no probe.
bool answer_probe(Packet& packet);

// Puts the header of gateway → client control in front of the packet's bytes. False: no headroom.
bool push_control_header(Packet& packet);

}  // namespace penstock::gateway
