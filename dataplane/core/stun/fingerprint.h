// FINGERPRINT of RFC 8489 §14.7: CRC-32 (ISO 3309) xor 0x5354554e over what precedes the attribute, with the header's
// length field counting the attribute.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/bytes.h"

namespace penstock::stun {

namespace detail {
constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
    table[i] = value;
  }
  return table;
}
inline constexpr auto kCrcTable = make_crc_table();
}  // namespace detail

// `prefix`: the message up to the attribute; at least the header.
[[nodiscard]] constexpr std::uint32_t fingerprint(Bytes prefix) {
  const std::size_t counted = prefix.size() + 8 - 20;
  std::uint32_t crc = 0xffffffff;
  for (std::size_t i = 0; i < prefix.size(); ++i) {
    std::uint8_t byte = prefix[i];
    if (i == 2) byte = static_cast<std::uint8_t>(counted >> 8);
    if (i == 3) byte = static_cast<std::uint8_t>(counted);
    crc = (crc >> 8) ^ detail::kCrcTable[(crc ^ byte) & 0xff];
  }
  return ~crc ^ 0x5354554e;
}

}  // namespace penstock::stun
