// Byte spans and integers in network byte order.
//
// `be16`, `be32`, `be64` hold a value as it stands on the wire and convert only by name, so that a missing or doubled
// conversion does not compile. They are trivially copyable, unaligned-safe (byte arrays inside) and usable in header
// structs that are laid over packet bytes.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace penstock {

using Bytes = std::span<const std::uint8_t>;
using MutableBytes = std::span<std::uint8_t>;

template <typename Int>
class BigEndian {
 public:
  constexpr BigEndian() = default;

  // From a value in host order.
  static constexpr BigEndian from_host(Int value) {
    BigEndian out;
    if constexpr (std::endian::native == std::endian::little) value = swap(value);
    out.bytes_ = std::bit_cast<std::array<std::uint8_t, sizeof(Int)>>(value);
    return out;
  }

  [[nodiscard]] constexpr Int host() const {
    Int value = std::bit_cast<Int>(bytes_);
    if constexpr (std::endian::native == std::endian::little) value = swap(value);
    return value;
  }

  // The value as an integer whose memory is the wire's bytes; for one's-complement sums and hashing.
  [[nodiscard]] constexpr Int raw() const { return std::bit_cast<Int>(bytes_); }

  // Not that of the array: to GCC 12 it is a call of memcmp.
  constexpr bool operator==(const BigEndian& other) const { return raw() == other.raw(); }

 private:
  static constexpr Int swap(Int value) {
    if constexpr (sizeof(Int) == 2) return static_cast<Int>(__builtin_bswap16(value));
    if constexpr (sizeof(Int) == 4) return static_cast<Int>(__builtin_bswap32(value));
    if constexpr (sizeof(Int) == 8) return static_cast<Int>(__builtin_bswap64(value));
  }

  std::array<std::uint8_t, sizeof(Int)> bytes_{};
};

using be16 = BigEndian<std::uint16_t>;
using be32 = BigEndian<std::uint32_t>;
using be64 = BigEndian<std::uint64_t>;

// Little-endian loads and stores (WireGuard's integers), any alignment.
template <typename Int>
[[nodiscard]] inline Int load_le(const std::uint8_t* from) {
  static_assert(std::endian::native == std::endian::little, "a big-endian host needs swaps here");
  Int value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename Int>
inline void store_le(std::uint8_t* to, Int value) {
  static_assert(std::endian::native == std::endian::little, "a big-endian host needs swaps here");
  std::memcpy(to, &value, sizeof value);
}

// A header struct laid over the start of `bytes`, or nullptr when `bytes` is too short. Header structs have alignment 1
// (built from be16/be32/uint8_t), so this is defined for any address.
template <typename Header>
[[nodiscard]] inline const Header* view_as(Bytes bytes) {
  static_assert(alignof(Header) == 1, "headers laid over packets must be byte-aligned");
  return bytes.size() < sizeof(Header) ? nullptr : reinterpret_cast<const Header*>(bytes.data());
}

template <typename Header>
[[nodiscard]] inline Header* view_as(MutableBytes bytes) {
  static_assert(alignof(Header) == 1, "headers laid over packets must be byte-aligned");
  return bytes.size() < sizeof(Header) ? nullptr : reinterpret_cast<Header*>(bytes.data());
}

}  // namespace penstock
