// WireGuard's 32-byte keys as types that cannot be mixed up. Trivially copyable; text form is base64 as `wg` prints it.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/core/base/bytes.h"

namespace penstock::wireguard {

inline constexpr std::size_t kKeySize = 32;

namespace detail {
std::optional<std::array<std::uint8_t, kKeySize>> parse_key(std::string_view base64);
std::string print_key(Bytes key);
}  // namespace detail

template <typename Kind>
struct Key {
  std::array<std::uint8_t, kKeySize> bytes{};

  // 44 characters of base64; nullopt when malformed.
  static std::optional<Key> parse(std::string_view base64) {
    const auto parsed = detail::parse_key(base64);
    return parsed ? std::optional<Key>(Key{*parsed}) : std::nullopt;
  }
  // Exactly 32 bytes; nullopt otherwise.
  static std::optional<Key> from_bytes(Bytes wire) {
    if (wire.size() != kKeySize) return std::nullopt;
    Key out;
    std::memcpy(out.bytes.data(), wire.data(), kKeySize);
    return out;
  }
  [[nodiscard]] std::string to_base64() const { return detail::print_key(bytes); }
  [[nodiscard]] Bytes view() const { return bytes; }
  [[nodiscard]] bool is_zero() const { return *this == Key{}; }

  auto operator<=>(const Key&) const = default;
};

using PublicKey = Key<struct PublicKeyKind>;
using PrivateKey = Key<struct PrivateKeyKind>;      // an X25519 scalar, clamped or not
using PresharedKey = Key<struct PresharedKeyKind>;  // all zeroes: none

// Curve25519 base point multiplication. nullopt only when the cryptographic library fails.
[[nodiscard]] std::optional<PublicKey> derive_public_key(const PrivateKey& key);

// Overwrites a secret in a way the compiler keeps.
void wipe(MutableBytes secret);

}  // namespace penstock::wireguard
