// IP addresses, prefixes, UDP endpoints and the identity of a path.
//
// An address of either family is 16 bytes; IPv4 is kept in the v4-mapped form ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), so
// that comparing and hashing need no branch. All types are trivially copyable and free of pointers and padding.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/core/base/bytes.h"

namespace penstock {

class IpAddress {
 public:
  // The unspecified IPv6 address ::.
  constexpr IpAddress() = default;

  // `octets`: as on the wire.
  static constexpr IpAddress v4(std::array<std::uint8_t, 4> octets) {
    IpAddress out;
    out.bytes_[10] = out.bytes_[11] = 0xff;
    for (std::size_t i = 0; i < 4; ++i) out.bytes_[12 + i] = octets[i];
    return out;
  }
  // `host_order`: 10.0.0.1 is 0x0a000001.
  static constexpr IpAddress v4(std::uint32_t host_order) {
    return v4(std::array<std::uint8_t, 4>{
        static_cast<std::uint8_t>(host_order >> 24), static_cast<std::uint8_t>(host_order >> 16),
        static_cast<std::uint8_t>(host_order >> 8), static_cast<std::uint8_t>(host_order)});
  }
  static constexpr IpAddress v6(const std::array<std::uint8_t, 16>& octets) {
    IpAddress out;
    out.bytes_ = octets;
    return out;
  }
  // 4 or 16 wire bytes; anything else is ::.
  static IpAddress from_wire(Bytes wire);

  // Text as inet_pton takes it, either family; no zone ids. nullopt when malformed.
  static std::optional<IpAddress> parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;

  [[nodiscard]] constexpr bool is_v4() const {
    constexpr auto kMapped = std::bit_cast<std::uint32_t>(std::array<std::uint8_t, 4>{0, 0, 0xff, 0xff});
    const auto words = std::bit_cast<std::array<std::uint32_t, 4>>(bytes_);
    return (words[0] | words[1] | (words[2] ^ kMapped)) == 0;
  }
  [[nodiscard]] constexpr bool is_v6() const { return !is_v4(); }
  [[nodiscard]] constexpr bool is_unspecified() const {
    for (std::size_t i = is_v4() ? 12 : 0; i < 16; ++i)
      if (bytes_[i] != 0) return false;
    return true;
  }

  [[nodiscard]] constexpr const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }
  // The 4 or 16 bytes that go on the wire.
  [[nodiscard]] Bytes wire() const { return is_v4() ? Bytes{bytes_}.subspan(12) : Bytes{bytes_}; }
  // IPv4 only: host order.
  [[nodiscard]] constexpr std::uint32_t v4_value() const {
    return std::uint32_t{bytes_[12]} << 24 | std::uint32_t{bytes_[13]} << 16 | std::uint32_t{bytes_[14]} << 8 |
           std::uint32_t{bytes_[15]};
  }

  constexpr auto operator<=>(const IpAddress&) const = default;
  // Not that of the array: to GCC 12 it is a call of memcmp.
  constexpr bool operator==(const IpAddress& other) const {
    using Words = std::array<std::uint64_t, 2>;
    const auto a = std::bit_cast<Words>(bytes_), b = std::bit_cast<Words>(other.bytes_);
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
  }

 private:
  std::array<std::uint8_t, 16> bytes_{};
};

// A prefix; `length` counts bits of the address's own family (0–32 or 0–128). Host bits are zero.
class Prefix {
 public:
  constexpr Prefix() = default;
  // Host bits of `address` are cleared; a length beyond the family's is clamped.
  Prefix(const IpAddress& address, unsigned length);
  // "a.b.c.d/n", "x::y/n", or an address alone (then a host prefix). nullopt when malformed or host bits are set.
  static std::optional<Prefix> parse(std::string_view text);

  [[nodiscard]] bool contains(const IpAddress& address) const;
  [[nodiscard]] const IpAddress& address() const { return address_; }
  [[nodiscard]] unsigned length() const { return length_; }
  [[nodiscard]] std::string to_string() const;

  auto operator<=>(const Prefix&) const = default;

 private:
  IpAddress address_;
  std::uint8_t length_ = 0;
};

struct Endpoint {
  IpAddress address;
  std::uint16_t port = 0;  // host order

  // "1.2.3.4:5", "[::1]:5".
  static std::optional<Endpoint> parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;
  auto operator<=>(const Endpoint&) const = default;
};

// Which way a datagram travels. `relay` 0 is direct; otherwise the number of the local end's TURN allocation through
// which it goes (client only: a gateway sees relayed packets as plain UDP from the relay's address).
struct Path {
  Endpoint local;   // port 0 / unspecified: chosen by the sender's routing
  Endpoint remote;
  std::uint32_t relay = 0;

  [[nodiscard]] std::string to_string() const;
  auto operator<=>(const Path&) const = default;
};

// Not for tables an attacker can fill: those use a seeded hash (flow/key.h).
[[nodiscard]] std::size_t hash_value(const IpAddress& address);
[[nodiscard]] std::size_t hash_value(const Endpoint& endpoint);

}  // namespace penstock

template <>
struct std::hash<penstock::IpAddress> {
  std::size_t operator()(const penstock::IpAddress& address) const { return penstock::hash_value(address); }
};
template <>
struct std::hash<penstock::Endpoint> {
  std::size_t operator()(const penstock::Endpoint& endpoint) const { return penstock::hash_value(endpoint); }
};
