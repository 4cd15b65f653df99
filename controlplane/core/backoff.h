// Exponential backoff with jitter, for reconnecting and for asking again.
//
// Delays grow from `first` by a factor of two up to `longest`; each is drawn from [d/2, d], so that many clients that
// lost the same portal do not return together. reset() after a success brings the first delay back (a backoff that is
// never reset turns the second outage of a day into a long one). Pure; one thread.
#pragma once

#include <algorithm>

#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock {

class Backoff {
 public:
  Backoff(Duration first, Duration longest) : first_(first), longest_(longest), next_(first) {}

  // The delay before the next try.
  [[nodiscard]] Duration next(Random& random) {
    const Duration delay = next_;
    next_ = std::min(longest_, next_ * 2);
    const auto half = delay / 2;
    const auto steps = std::max<std::int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(half).count());
    return half + std::chrono::milliseconds{random.below(static_cast<std::uint32_t>(steps) + 1)};
  }
  void reset() { next_ = first_; }

 private:
  Duration first_;
  Duration longest_;
  Duration next_;
};

}  // namespace penstock
