// The highest rate at which nothing is lost (RFC 2544 section 26.1), by bisection.
#pragma once

#include <functional>

#include "perf/generator/load.h"

namespace penstock::generator {

struct SearchLimits {
  double highest = 40e6;     // packets per second
  double resolution = 0.02;  // of the result
  double tolerance = 0;      // share of packets that may be lost
  unsigned retries = 2;      // a machine with other things to do loses packets that are not the device's fault
};

struct SearchResult {
  Trial best;          // at the highest rate that passed; sent == 0: none did
  Trial overload;      // as fast as it goes, with losses
  unsigned trials = 0;
  bool generator_limited = false;  // at some rate we could not send enough: the device may be faster
};

// `trial(rate)` runs one; a rate below 0 means as fast as possible.
[[nodiscard]] SearchResult search_no_drop_rate(const SearchLimits& limits, const std::function<Trial(double)>& trial);

}  // namespace penstock::generator
