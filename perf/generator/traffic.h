// The generator's packets: UDP with a payload that says which flow and which packet of the run it is, so that every
// received packet can be counted, checked and timed.
//
// Payload, 16 bytes, then zeroes: marker, flow, sequence. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::generator {

inline constexpr std::uint32_t kMarker = 0x50535447;  // "PSTG"

struct Stamp {
  be32 marker;
  be32 flow;
  be64 sequence;
};
static_assert(sizeof(Stamp) == 16 && alignof(Stamp) == 1);

// Headers of one flow in one direction, ready but for lengths and checksums.
class FlowHeaders {
 public:
  FlowHeaders() = default;
  // Both endpoints of one family.
  FlowHeaders(const Endpoint& source, const Endpoint& destination);

  // Writes a packet of `length` bytes (at least the headers and a Stamp) at `to`.
  void write(std::uint8_t* to, std::uint16_t length, std::uint32_t flow, std::uint64_t sequence) const;

 private:
  std::array<std::uint8_t, sizeof(Ipv6Header) + sizeof(UdpHeader)> bytes_{};
  std::uint8_t size_ = 0;
  ChecksumSum sum_ = 0;  // of what the UDP checksum covers and does not change
};

// A packet of ours that has come through.
struct Arrived {
  std::uint32_t flow = 0;
  std::uint64_t sequence = 0;
  Endpoint source;
  Endpoint destination;
};

// `packet` begins with an IP header. nullopt: not ours. Addresses are filled in only when `whole`.
[[nodiscard]] std::optional<Arrived> read_packet(Bytes packet, bool whole);

// Whether IP and UDP checksums and lengths are right and the rest of the payload is as it was sent.
[[nodiscard]] bool intact(Bytes packet);

}  // namespace penstock::generator
