// What there is to measure, and what is aimed at (docs/performance.md).
#pragma once

#include "perf/pipeline/suite.h"

namespace penstock::perf {

struct Goal {
  bool in_packets = true;  // goal and floor in Mpps; otherwise in Gbit/s of inner bytes
  double goal = 0;
  double floor = 0;
  double share = 0;  // of the AEAD alone
  double rest = 0;   // cycles that are not the AEAD's
  double times = 0;  // one worker's speed, for several
};

struct Case {
  std::string name;
  std::string base;  // direction and size
  bool up = true;
  std::vector<std::uint16_t> sizes;  // empty: translation alone
  std::uint16_t size = 0;            // 0: mixed
  std::uint16_t workers = 1;
  bool one_peer = false;  // all flows in one tunnel
  Goal goal;
};

// Those that the options name, in an order that needs few gateways. Empty: a name is unknown.
[[nodiscard]] std::vector<Case> choose_cases(const Options& options);

}  // namespace penstock::perf
