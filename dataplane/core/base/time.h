// Time as the core sees it: always passed in, never read.
//
// `Instant` is monotonic nanoseconds since an arbitrary start; `MonotonicClock` deliberately has no now().
// `WallTime` is only for what must be comparable between machines or restarts (TAI64N, expiry of an authorisation).
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>

namespace penstock {

using Duration = std::chrono::nanoseconds;

struct MonotonicClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<MonotonicClock, duration>;
  static constexpr bool is_steady = true;
};

using Instant = MonotonicClock::time_point;

// "No deadline": later than every real instant.
inline constexpr Instant kNever = Instant::max();

// Seconds and nanoseconds since 1970-01-01 UTC.
struct WallTime {
  std::uint64_t seconds = 0;
  std::uint32_t nanoseconds = 0;

  auto operator<=>(const WallTime&) const = default;
};

// What an entry point that needs both is given.
struct Now {
  Instant monotonic;
  WallTime wall;
};

}  // namespace penstock
