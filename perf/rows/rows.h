// Figures as perf/run reads them (perf/README.md): one JSON object per line. And the time stamp counter's rate.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace penstock::perf {

struct Row {
  std::string suite;
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<double> limit;  // what the machine allows, in the same unit
  std::string peer;             // another implementation; empty: none
  std::optional<double> peer_value;
  std::optional<double> ratio;  // how many times better than the peer we are
  std::optional<std::pair<double, double>> spread;
  bool less_is_better = false;
  std::optional<double> goal, goal_share, goal_ratio;
  bool reference_only = false;
  std::string note;
};

// False when the file cannot be written. An empty path: nothing to do.
bool write_rows(const std::string& path, const std::vector<Row>& rows);

// The value below which `share` (0..1) of the samples lie.
[[nodiscard]] double quantile(std::vector<double> samples, double share);

// Cycles of the time stamp counter per second, measured once.
[[nodiscard]] double cycles_per_second();

}  // namespace penstock::perf
