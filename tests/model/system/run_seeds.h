// Many scenarios, each in a process of its own: a crash or a hang is one seed's, memory looks the same whenever a seed
// runs (so that it can be repeated), and every core is used.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/model/system/scenario.h"

namespace penstock::model {

struct Outcome {
  std::uint64_t seed = 0;
  bool ok = false;
  std::string digest;      // of what happened: the same seed gives the same
  std::string violation;   // why not ok
  double seconds = 0;
};

// Plays one scenario in this process. `log`: every event and what the programs say about it; `traced`: from when until
// when every datagram as well.
[[nodiscard]] Outcome play(const Scenario& plan, const std::function<void(const std::string&)>& log = {},
                           std::pair<Duration, Duration> traced = {});

// The same in a child; also when it crashes, or hangs for longer than `patience` seconds.
[[nodiscard]] Outcome play_apart(const Scenario& plan, unsigned patience);

// Runs `seeds`, `jobs` at a time. `done` is called in order of completion; returning false ends it.
void run_seeds(const std::vector<std::uint64_t>& seeds, const std::function<Scenario(std::uint64_t)>& scenario,
               unsigned jobs, unsigned patience, const std::function<bool(const Outcome&)>& done);

// The fewest events with which the scenario still fails, in at most `budget` runs; and their numbers in `plan`.
struct Minimised {
  std::vector<unsigned> kept;
  Outcome outcome;
  unsigned runs = 0;
};
[[nodiscard]] Minimised minimise(const Scenario& plan, unsigned budget, unsigned patience);
[[nodiscard]] Scenario with_only(const Scenario& plan, const std::vector<unsigned>& kept);

}  // namespace penstock::model
