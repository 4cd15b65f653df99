// One packet as the code that encrypts across packets sees it (chacha20_poly1305_x16.h, chacha20_poly1305_x8.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::wireguard {

struct Lane {
  const std::uint8_t* key;  // 32 bytes
  std::uint64_t counter;    // nonce: four zero bytes, then this, little-endian
  std::uint8_t* data;       // `length` bytes, transformed in place; may be null when length is 0
  std::uint32_t length;
};

}  // namespace penstock::wireguard
