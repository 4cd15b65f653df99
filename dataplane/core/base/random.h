// Randomness as the core sees it: injected. Production passes the operating system's generator, a simulation passes a
// seeded one. Calls may come from one thread at a time per object.
#pragma once

#include <cstdint>
#include <span>

namespace penstock {

class Random {
 public:
  virtual ~Random() = default;

  // Fills `out` with random bytes. Cannot fail: an implementation that cannot deliver ends the process at start-up.
  virtual void fill(std::span<std::uint8_t> out) = 0;

  std::uint32_t next_u32() {
    std::uint8_t bytes[4];
    fill(bytes);
    return std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
           std::uint32_t{bytes[3]} << 24;
  }

  std::uint64_t next_u64() { return std::uint64_t{next_u32()} << 32 | next_u32(); }

  // Uniform enough in [0, bound) for jitter and port choice; bound 0 gives 0.
  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>((std::uint64_t{next_u32()} * bound) >> 32);
  }
};

}  // namespace penstock
