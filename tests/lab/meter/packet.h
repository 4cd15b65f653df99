// The meter's UDP packet: 24 bytes, then padding up to the wanted size. Both ends are the same machine, so fields are
// in its byte order.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace penstock::meter {

struct Header {
  static constexpr std::uint32_t kMagic = 0x504d4554;
  std::uint32_t magic = kMagic;
  std::uint32_t sequence = 0;
  std::int64_t sent = 0;
  std::uint32_t rate = 0;  // upwards: how many a second the client wants downwards
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Header) == 24);
inline constexpr std::size_t kLargest = 1400;

inline std::optional<Header> parse(std::span<const std::uint8_t> packet) {
  Header out;
  if (packet.size() < sizeof out) return std::nullopt;
  std::memcpy(&out, packet.data(), sizeof out);
  if (out.magic != Header::kMagic) return std::nullopt;
  return out;
}

// The download's content: byte `offset` of it. Any shift, gap or repetition shows.
inline std::uint8_t content(std::uint64_t offset) {
  const std::uint64_t word = (offset >> 3) * 0x9e3779b97f4a7c15ULL;
  return static_cast<std::uint8_t>(word >> ((offset & 7) * 8));
}

}  // namespace penstock::meter
