#include "perf/generator/search.h"

#include <algorithm>

namespace penstock::generator {
namespace {

// The share of the wanted rate that must really have been sent for a trial to count.
constexpr double kSentEnough = 0.97;
constexpr double kLowest = 1000;

// What the port refused is lost too: on a wire the device would have had to drop it.
bool passes(const Trial& trial, double tolerance) {
  return trial.sent > 0 && trial.corrupt == 0 &&
         static_cast<double>(trial.lost() + trial.refused) <= tolerance * static_cast<double>(trial.sent);
}

}  // namespace

SearchResult search_no_drop_rate(const SearchLimits& limits, const std::function<Trial(double)>& trial) {
  SearchResult out;
  out.overload = trial(-1);
  out.trials = 1;
  if (passes(out.overload, limits.tolerance)) {
    out.best = out.overload;
    out.generator_limited = true;
    return out;
  }
  double low = 0;
  // A device that drops does useless work: it may carry more when it is asked for less.
  double high = std::min(limits.highest, std::max(out.overload.received_rate() * 1.3, kLowest));
  double rate = std::min(high, out.overload.received_rate());
  while (high - low > limits.resolution * high && high > kLowest) {
    bool passed = false;
    bool too_slow = false;
    for (unsigned attempt = 0; attempt <= limits.retries && !passed; ++attempt) {
      Trial now = trial(rate);
      ++out.trials;
      const bool lossless = passes(now, limits.tolerance);
      passed = lossless && now.rate() >= kSentEnough * rate;
      too_slow = lossless && !passed;  // we did not send what we meant to
      if (lossless && (out.best.sent == 0 || now.received_rate() > out.best.received_rate())) out.best = std::move(now);
    }
    out.generator_limited = out.generator_limited || too_slow;
    (passed ? low : high) = rate;
    rate = (low + high) / 2;
  }
  return out;
}

}  // namespace penstock::generator
