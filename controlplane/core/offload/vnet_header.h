// The header that a TUN device with IFF_VNET_HDR puts before every packet: which checksum is still to be filled in, and
// how a packet larger than the MTU is to be cut (virtio 1.2, §5.1.6; linux/virtio_net.h). Little-endian, ten bytes.
//
// Pure; any thread. All lengths and offsets in bytes, offsets from the start of the IP header.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/bytes.h"

namespace penstock::offload {

inline constexpr std::size_t kVnetHeaderSize = 10;

struct VnetHeader {
  enum class Gso : std::uint8_t { none = 0, tcp4 = 1, tcp6 = 4, udp = 5 };

  bool needs_checksum = false;  // the field holds the pseudo-header's sum; the rest is to be added
  Gso gso = Gso::none;
  std::uint16_t header_length = 0;    // of all headers; a hint, not to be trusted
  std::uint16_t segment_size = 0;     // transport payload per packet; 0 without gso
  std::uint16_t checksum_start = 0;   // where summing starts: the transport header
  std::uint16_t checksum_offset = 0;  // of the field, from there

  // A packet that is complete as it is.
  [[nodiscard]] bool plain() const { return !needs_checksum && gso == Gso::none; }

  // Sets `known` to false for a kind of super-packet that this code does not know (and never asked for).
  [[nodiscard]] static VnetHeader parse(const std::array<std::uint8_t, kVnetHeaderSize>& bytes, bool& known) {
    constexpr std::uint8_t kEcn = 0x80;  // a modifier: CWR is set
    VnetHeader out;
    out.needs_checksum = (bytes[0] & 1) != 0;
    out.gso = static_cast<Gso>(bytes[1] & ~kEcn);
    out.header_length = load_le<std::uint16_t>(&bytes[2]);
    out.segment_size = load_le<std::uint16_t>(&bytes[4]);
    out.checksum_start = load_le<std::uint16_t>(&bytes[6]);
    out.checksum_offset = load_le<std::uint16_t>(&bytes[8]);
    known = out.gso == Gso::none || out.gso == Gso::tcp4 || out.gso == Gso::tcp6 || out.gso == Gso::udp;
    return out;
  }

  [[nodiscard]] std::array<std::uint8_t, kVnetHeaderSize> wire() const {
    std::array<std::uint8_t, kVnetHeaderSize> out{};
    out[0] = needs_checksum ? 1 : 0;
    out[1] = static_cast<std::uint8_t>(gso);
    store_le(&out[2], header_length);
    store_le(&out[4], segment_size);
    store_le(&out[6], checksum_start);
    store_le(&out[8], checksum_offset);
    return out;
  }

  bool operator==(const VnetHeader&) const = default;
};

}  // namespace penstock::offload
