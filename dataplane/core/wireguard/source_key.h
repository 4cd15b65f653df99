// The address that stands for a source in rate limits: IPv4 /32, IPv6 /64; and a seeded hash of it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::wireguard {

[[nodiscard]] inline IpAddress source_network(const IpAddress& source) {
  if (source.is_v4()) return source;
  auto octets = source.bytes();
  std::fill(octets.begin() + 8, octets.end(), std::uint8_t{0});
  return IpAddress::v6(octets);
}

// Multiply-and-fold with a secret seed; good enough to keep an attacker from aiming at one place.
[[nodiscard]] inline std::uint64_t seeded_hash(const IpAddress& address, std::uint64_t seed) {
  std::uint64_t state = seed;
  for (std::size_t i = 0; i < 16; i += 8) {
    const std::uint64_t word = load_le<std::uint64_t>(address.bytes().data() + i);
    const auto product = static_cast<unsigned __int128>(state ^ word) * 0x9e3779b97f4a7c15ULL;
    state = static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product) ^ (seed << 1);
  }
  const auto last = static_cast<unsigned __int128>(state ^ (seed >> 7)) * 0xd6e8feb86659fd93ULL;
  return static_cast<std::uint64_t>(last >> 64) ^ static_cast<std::uint64_t>(last);
}

}  // namespace penstock::wireguard
