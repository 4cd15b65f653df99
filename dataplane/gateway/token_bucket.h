// A rate limit: `burst` at once, then `per_second`. Single-threaded, no clock of its own.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dataplane/core/base/time.h"

namespace penstock::gateway {

class TokenBucket {
 public:
  constexpr TokenBucket(std::uint32_t per_second, std::uint32_t burst)
      : interval_(std::chrono::nanoseconds{1000000000 / per_second}), depth_(interval_ * burst) {}

  // Takes one token if there is one.
  bool take(Instant now) {
    // Theoretical arrival time (GCRA): one word of state instead of a level and a time.
    const Instant arrival = std::max(next_, now);
    if (arrival - now > depth_ - interval_) return false;
    next_ = arrival + interval_;
    return true;
  }

 private:
  Duration interval_;
  Duration depth_;
  Instant next_ = Instant::min();
};

}  // namespace penstock::gateway
