// In-tunnel control (docs/agreements.md): IPv6 packets between fe80::1 (client) and fe80::2 (gateway), next header 253,
// hop limit 255, whose first payload byte says what follows. Probes have a fixed layout, big-endian, 32 bytes:
//
//     type:8  version:8 (= 1)  path:16  switch_sequence:32  id:64  sent_at:64  rtt_us:32  inner_mtu:16  flags:16
//
// Flags: bit 0 doubt, bit 1 sized, bit 2 report. A reply echoes all but the type. A sized probe goes on with zeroes and
// is answered by one as long: so the client finds how long packets may be (RFC 8899). A probe with a reception report
// (reception_report.h) behind it is answered by one with the other's. Pure, any thread; malformed gives nullopt.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::wireguard {

enum class ControlType : std::uint8_t { probe = 1, probe_reply = 2, message = 3 /* penstock.v1.Control */ };

struct Probe {
  ControlType type = ControlType::probe;  // probe or probe_reply
  std::uint16_t path = 0;                 // the client's number of the path it was sent on
  std::uint32_t switch_sequence = 0;      // higher than seen: the endpoint moves to this probe's source
  std::uint64_t id = 0;
  std::uint64_t sent_at = 0;  // sender's clock, nanoseconds; opaque to the other end
  std::uint32_t rtt_us = 0;   // of this path, smoothed; 0: not known (or an older client, which does not send it)
  std::uint16_t inner_mtu = 0;  // bytes of the longest inner packet that reaches the client; 0: nothing said
  bool doubt = false;         // the client's primary path did not work for a while: send again what is in doubt
  bool sized = false;         // asks whether a packet of its length comes through; nothing else is to be made of it
  bool report = false;        // a reception report follows

  bool operator==(const Probe&) const = default;
};

inline constexpr std::size_t kProbeSize = 32;
inline constexpr std::size_t kControlHeaderSize = 40;  // the IPv6 header
inline constexpr std::size_t kProbePacketSize = kControlHeaderSize + kProbeSize;
inline constexpr std::uint8_t kProbeVersion = 1;

[[nodiscard]] std::array<std::uint8_t, kProbeSize> encode_probe(const Probe& probe);
// `payload`: of a control packet. At least 24 bytes (what follows may be missing); more are ignored.
[[nodiscard]] std::optional<Probe> parse_probe(Bytes payload);
[[nodiscard]] Probe reply_to(const Probe& probe);

enum class ControlDirection : std::uint8_t { to_gateway, to_client };

// Whether an inner packet claims to be in-tunnel control: IPv6 and either address of the pair. Such packets are never
// routed; whether they are well-formed is parse_control's business.
[[nodiscard]] bool is_control_packet(Bytes inner);

struct ControlPacket {
  ControlDirection direction{};
  ControlType type{};
  Bytes payload;  // with the type byte; length as the IPv6 header says
};
// nullopt: not exactly this pair of addresses, next header, hop limit, a wrong length, or an unknown type.
[[nodiscard]] std::optional<ControlPacket> parse_control(Bytes inner);

// Writes the 40-byte IPv6 header for `payload_length` bytes that follow it.
void write_control_header(MutableBytes header, ControlDirection direction, std::uint16_t payload_length);

// A whole inner packet with a probe.
[[nodiscard]] std::array<std::uint8_t, kProbePacketSize> make_probe_packet(const Probe& probe,
                                                                           ControlDirection direction);
// The same, `size` bytes long (at least kProbePacketSize), filled up with zeroes; for sized ones, and where a report is
// to be written behind it.
[[nodiscard]] std::vector<std::uint8_t> make_sized_probe_packet(const Probe& probe, ControlDirection direction,
                                                                std::size_t size);

[[nodiscard]] IpAddress control_client_address();   // fe80::1
[[nodiscard]] IpAddress control_gateway_address();  // fe80::2

}  // namespace penstock::wireguard
