// Samples, and figures as perf/run reads them (perf/README.md). And the time stamp counter's rate.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace penstock::perf {

// The value below which `share` (0..1) of the samples lie; 0 of none.
[[nodiscard]] double quantile(std::vector<double> samples, double share);

// Values of many short windows. Neighbours on the machine only ever make a window worse, so what the code can do shows
// in the better half: `typical` is its median. The spread is shown beside it.
class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  [[nodiscard]] bool empty() const { return values_.empty(); }
  [[nodiscard]] std::size_t count() const { return values_.size(); }
  // The value below which `share` (0..1) of the samples lie.
  [[nodiscard]] double quantile(double share) const { return perf::quantile(values_, share); }
  [[nodiscard]] double median() const { return quantile(0.5); }

 private:
  std::vector<double> values_;
};

struct Figure {
  std::string suite{};
  std::string name{};
  double value = 0;
  std::string unit{};
  std::optional<double> limit{};  // what the machine allows: the same without everything that is not its core
  std::string peer{};             // who is compared with; empty: nobody
  std::optional<double> peer_value{};
  std::optional<double> ratio{};  // how many times better than the peer
  // What perf/README.md says of them.
  std::optional<std::pair<double, double>> spread{};
  std::optional<double> best{}, goal{}, floor{}, goal_share{}, goal_ratio{};
  bool less_is_better = false;
  bool reference_only = false;
  std::map<std::string, double> stages{};
  std::string note{};
};

// Writes a JSON list. `path` empty: nowhere. False when the file cannot be written.
bool write_json(const std::string& path, const std::vector<Figure>& figures);

// Cycles of the time stamp counter per second, measured once.
[[nodiscard]] double tsc_hz();

}  // namespace penstock::perf
