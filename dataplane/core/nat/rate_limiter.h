// A token bucket per source in a fixed table: for ICMP errors and resets made here (RFC 1812 §4.3.2.8, RFC 4443 §2.4
// (f)). Sources that share a place share its bucket; the table's secret keeps an outsider from choosing whom with.
// One thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::nat {

class RateLimiter {
 public:
  RateLimiter(std::uint32_t per_second, std::uint32_t burst, Random& random)
      : interval_{per_second == 0 ? Duration::max().count() : 1'000'000'000 / static_cast<std::int64_t>(per_second)},
        depth_{interval_ == Duration::max().count() ? 0 : interval_ * static_cast<std::int64_t>(burst)},
        secret_{random.next_u64() | 1} {}

  // True when one more may be sent about `source`; then it is counted.
  bool allow(std::uint64_t source, Instant now) {
    if (depth_ == 0) return false;
    const std::uint64_t mixed = (source ^ (source >> 32) ^ secret_) * 0x9e3779b97f4a7c15ULL * secret_;
    // Kept as the time at which the bucket will be full again (a virtual clock), which needs one number per source.
    std::int64_t& full_at = full_at_[mixed >> 52];
    const std::int64_t at = now.time_since_epoch().count();
    const std::int64_t start = std::max(full_at, at);
    if (start + interval_ - at > depth_) return false;
    full_at = start + interval_;
    return true;
  }

 private:
  std::int64_t interval_;
  std::int64_t depth_;
  std::uint64_t secret_;
  std::array<std::int64_t, 4096> full_at_{};
};

}  // namespace penstock::nat
