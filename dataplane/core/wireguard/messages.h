// WireGuard's four messages as they lie on the wire (whitepaper section 5.4). Integers are little-endian; every struct
// has alignment 1 and is laid over the bytes of a datagram. Lengths are checked before anything else: `classify` is the
// first thing done with a datagram of the tunnel port, and it looks at nothing but type, zero bytes and length.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/bytes.h"

namespace penstock::wireguard {

// An integer in little-endian order at any alignment.
template <typename Int>
class LittleEndian {
 public:
  [[nodiscard]] Int get() const { return load_le<Int>(bytes_.data()); }
  void set(Int value) { store_le<Int>(bytes_.data(), value); }

 private:
  std::array<std::uint8_t, sizeof(Int)> bytes_{};
};

using le32 = LittleEndian<std::uint32_t>;
using le64 = LittleEndian<std::uint64_t>;

inline constexpr std::size_t kTagSize = 16;
inline constexpr std::size_t kMacSize = 16;
inline constexpr std::size_t kTimestampSize = 12;  // TAI64N

struct InitiationMessage {
  le32 type;  // 1
  le32 sender;
  std::array<std::uint8_t, 32> ephemeral;
  std::array<std::uint8_t, 32 + kTagSize> encrypted_static;
  std::array<std::uint8_t, kTimestampSize + kTagSize> encrypted_timestamp;
  std::array<std::uint8_t, kMacSize> mac1;
  std::array<std::uint8_t, kMacSize> mac2;
};
static_assert(sizeof(InitiationMessage) == 148 && alignof(InitiationMessage) == 1);

struct ResponseMessage {
  le32 type;  // 2
  le32 sender;
  le32 receiver;
  std::array<std::uint8_t, 32> ephemeral;
  std::array<std::uint8_t, kTagSize> encrypted_nothing;
  std::array<std::uint8_t, kMacSize> mac1;
  std::array<std::uint8_t, kMacSize> mac2;
};
static_assert(sizeof(ResponseMessage) == 92 && alignof(ResponseMessage) == 1);

struct CookieMessage {
  le32 type;  // 3
  le32 receiver;
  std::array<std::uint8_t, 24> nonce;
  std::array<std::uint8_t, kMacSize + kTagSize> encrypted_cookie;
};
static_assert(sizeof(CookieMessage) == 64 && alignof(CookieMessage) == 1);

struct DataHeader {
  le32 type;  // 4
  le32 receiver;
  le64 counter;
};
static_assert(sizeof(DataHeader) == 16 && alignof(DataHeader) == 1);

inline constexpr std::size_t kDataHeaderSize = sizeof(DataHeader);
inline constexpr std::size_t kDataOverhead = kDataHeaderSize + kTagSize;  // and the length of a keepalive
inline constexpr std::size_t kPaddingMultiple = 16;

enum class MessageType : std::uint8_t { none = 0, initiation = 1, response = 2, cookie = 3, data = 4 };

// `none`: not WireGuard (another type, reserved bytes not zero) or a length the type cannot have.
[[nodiscard]] inline MessageType classify(Bytes datagram) {
  if (datagram.size() < kDataOverhead) return MessageType::none;
  switch (load_le<std::uint32_t>(datagram.data())) {
    case 1:
      return datagram.size() == sizeof(InitiationMessage) ? MessageType::initiation : MessageType::none;
    case 2:
      return datagram.size() == sizeof(ResponseMessage) ? MessageType::response : MessageType::none;
    case 3:
      return datagram.size() == sizeof(CookieMessage) ? MessageType::cookie : MessageType::none;
    case 4:
      return MessageType::data;  // any length from 32: a peer need not pad
    default:
      return MessageType::none;
  }
}

// True when the first four bytes are those of some WireGuard message, whatever the length: tells "not WireGuard"
// (tunnel_port_unknown) from "WireGuard of an impossible length" (wg_length).
[[nodiscard]] inline bool looks_like_wireguard(Bytes datagram) {
  if (datagram.size() < 4) return false;
  const std::uint32_t type = load_le<std::uint32_t>(datagram.data());
  return type >= 1 && type <= 4;
}

// Length of the plaintext of a data message: `length` rounded up to 16, but never beyond `mtu` (nor below `length`).
[[nodiscard]] constexpr std::uint32_t padded_length(std::uint32_t length, std::uint32_t mtu) {
  const std::uint32_t padded = (length + (kPaddingMultiple - 1)) & ~static_cast<std::uint32_t>(kPaddingMultiple - 1);
  if (padded <= mtu) return padded;
  return length > mtu ? length : mtu;
}

}  // namespace penstock::wireguard
