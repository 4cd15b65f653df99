#include "perf/rows/figures.h"

#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace penstock::perf {

double quantile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double at = share * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (samples[above] - samples[below]) * (at - std::floor(at));
}

bool write_json(const std::string& path, const std::vector<Figure>& figures) {
  if (path.empty()) return true;
  const auto number = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  nlohmann::json list = nlohmann::json::array();
  for (const Figure& figure : figures) {
    nlohmann::json line;
    line["suite"] = figure.suite;
    line["name"] = figure.name;
    line["value"] = figure.value;
    line["unit"] = figure.unit;
    line["limit"] = number(figure.limit);
    line["peer"] = figure.peer.empty() ? nlohmann::json() : nlohmann::json(figure.peer);
    line["peer_value"] = number(figure.peer_value);
    line["ratio"] = number(figure.ratio);
    if (figure.spread) line["spread"] = {figure.spread->first, figure.spread->second};
    if (figure.best) line["best"] = *figure.best;
    if (figure.goal) line["goal"] = *figure.goal;
    if (figure.floor) line["floor"] = *figure.floor;
    if (figure.goal_share) line["goal_share"] = *figure.goal_share;
    if (figure.goal_ratio) line["goal_ratio"] = *figure.goal_ratio;
    if (figure.less_is_better) line["better"] = "less";
    if (figure.reference_only) line["reference_only"] = true;
    if (!figure.stages.empty()) line["stages"] = figure.stages;
    if (!figure.note.empty()) line["note"] = figure.note;
    list.push_back(line);
  }
  std::ofstream file(path);
  file << list.dump(1) << '\n';
  return file.good();
}

double tsc_hz() {
  static const double hz = [] {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const std::uint64_t before = __rdtsc();
    while (Clock::now() - start < std::chrono::milliseconds{50}) {
    }
    const std::uint64_t after = __rdtsc();
    return static_cast<double>(after - before) / std::chrono::duration<double>(Clock::now() - start).count();
  }();
  return hz;
}

}  // namespace penstock::perf
