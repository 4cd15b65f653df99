// Where the fields of a STUN message lie (RFC 8489 §5, §14): what its parser and its builder share.
#pragma once

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "dataplane/core/stun/message.h"

namespace penstock::stun::layout {

constexpr std::size_t kSha1Size = 20;
constexpr std::size_t kSha256Size = 32;
constexpr std::size_t kAttributeHeader = 4;

inline std::uint16_t load16(const std::uint8_t* from) {
  return static_cast<std::uint16_t>(from[0] << 8 | from[1]);
}
inline std::uint32_t load32(const std::uint8_t* from) {
  return std::uint32_t{load16(from)} << 16 | std::uint32_t{load16(from + 2)};
}
inline void store16(std::uint8_t* to, std::size_t value) {
  to[0] = static_cast<std::uint8_t>(value >> 8);
  to[1] = static_cast<std::uint8_t>(value);
}
inline void store32(std::uint8_t* to, std::uint32_t value) {
  store16(to, value >> 16);
  store16(to + 2, value & 0xffff);
}

constexpr std::size_t padded(std::size_t size) {
  return (size + 3) & ~std::size_t{3};
}

// RFC 8489 §5: the class bits C1 and C0 stand between the method's bits, at 0x100 and 0x010.
constexpr std::uint16_t message_type(Class c, Method m) {
  const auto method = static_cast<unsigned>(m);
  const auto bits = static_cast<unsigned>(c);
  return static_cast<std::uint16_t>((method & 0x000f) | (method & 0x0070) << 1 | (method & 0x0f80) << 2 |
                                    (bits & 1) << 4 | (bits & 2) << 7);
}
constexpr Method method_of(std::uint16_t type) {
  return static_cast<Method>((type & 0x000f) | (type & 0x00e0) >> 1 | (type & 0x3e00) >> 2);
}
constexpr Class class_of(std::uint16_t type) {
  return static_cast<Class>((type & 0x010) >> 4 | (type & 0x100) >> 7);
}

// What XOR-…-ADDRESS is masked with: cookie, then transaction id (RFC 8489 §14.2).
inline std::array<std::uint8_t, 16> xor_mask(const TransactionId& transaction_id) {
  std::array<std::uint8_t, 16> mask;
  store32(mask.data(), kMagicCookie);
  std::copy(transaction_id.begin(), transaction_id.end(), mask.begin() + 4);
  return mask;
}

// HMAC over the message up to an integrity attribute at `end`, with the header's length counting up to and including
// that attribute of `value_size` (RFC 8489 §14.5). False only when the library fails.
inline bool hmac_prefix(const EVP_MD* digest, Bytes key, Bytes message, std::size_t end, std::size_t value_size,
                 std::uint8_t* out) {
  std::array<std::uint8_t, 2048> copy;  // larger messages exist only as indications, which carry no integrity
  if (end > copy.size() || end < kHeaderSize) return false;
  std::copy_n(message.begin(), end, copy.begin());
  store16(copy.data() + 2, end + kAttributeHeader + value_size - kHeaderSize);
  unsigned size = 0;
  return HMAC(digest, key.data(), static_cast<int>(key.size()), copy.data(), end, out, &size) != nullptr;
}

}  // namespace penstock::stun::layout
