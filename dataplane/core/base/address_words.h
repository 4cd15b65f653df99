// An address as two machine words: what hot loops compare and hash, without a call per address.
//
// The words are the address's 16 bytes as they lie in memory (IPv4 v4-mapped), so that an address read from a header
// and an IpAddress have the same words.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "dataplane/core/base/address.h"

namespace penstock {

struct AddressWords {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  static AddressWords of(const IpAddress& address) {
    AddressWords out;
    std::memcpy(&out.high, address.bytes().data(), 8);
    std::memcpy(&out.low, address.bytes().data() + 8, 8);
    return out;
  }
  // `wire`: the 4 bytes of an IPv4 header's field.
  static AddressWords of_v4(const std::uint8_t* wire) {
    static_assert(std::endian::native == std::endian::little);
    std::uint32_t value;
    std::memcpy(&value, wire, 4);
    return {0, 0xffff0000ULL | std::uint64_t{value} << 32};
  }
  static AddressWords of_v6(const std::uint8_t* wire) {
    AddressWords out;
    std::memcpy(&out.high, wire, 8);
    std::memcpy(&out.low, wire + 8, 8);
    return out;
  }

  [[nodiscard]] IpAddress address() const { return std::bit_cast<IpAddress>(*this); }
  [[nodiscard]] bool is_v4() const { return high == 0 && static_cast<std::uint32_t>(low) == 0xffff0000U; }
  // The first byte of an IPv4 address; of an IPv6 address use `high`.
  [[nodiscard]] std::uint8_t first_v4() const { return static_cast<std::uint8_t>(low >> 32); }

  // Every bit of the result depends on every bit of the address. `seed`: secret where others choose the addresses.
  [[nodiscard]] std::uint64_t hash(std::uint64_t seed) const {
    return fold(fold(low ^ seed, 0x9e3779b97f4a7c15ULL) ^ high, 0xff51afd7ed558ccdULL);
  }

  bool operator==(const AddressWords& other) const {
    return ((high ^ other.high) | (low ^ other.low)) == 0;
  }

 private:
  static std::uint64_t fold(std::uint64_t a, std::uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }
};
static_assert(sizeof(AddressWords) == sizeof(IpAddress));

}  // namespace penstock
