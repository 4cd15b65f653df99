#include "perf/rows/rows.h"

#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

namespace penstock::perf {

bool write_rows(const std::string& path, const std::vector<Row>& rows) {
  if (path.empty()) return true;
  std::ofstream file(path);
  for (const Row& row : rows) {
    nlohmann::json line{{"suite", row.suite}, {"name", row.name}, {"value", row.value}, {"unit", row.unit}};
    const auto put = [&line](const char* key, const std::optional<double>& value) {
      if (value) line[key] = *value;
    };
    put("limit", row.limit);
    put("peer_value", row.peer_value);
    put("ratio", row.ratio);
    put("goal", row.goal);
    put("goal_share", row.goal_share);
    put("goal_ratio", row.goal_ratio);
    if (!row.peer.empty()) line["peer"] = row.peer;
    if (row.spread) line["spread"] = {row.spread->first, row.spread->second};
    if (row.less_is_better) line["better"] = "less";
    if (row.reference_only) line["reference_only"] = true;
    if (!row.note.empty()) line["note"] = row.note;
    file << line.dump() << '\n';
  }
  return file.good();
}

double quantile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double at = share * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (samples[above] - samples[below]) * (at - static_cast<double>(below));
}

double cycles_per_second() {
  static const double rate = [] {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const std::uint64_t before = __rdtsc();
    while (Clock::now() - start < std::chrono::milliseconds{50}) {
    }
    const std::uint64_t after = __rdtsc();
    return static_cast<double>(after - before) / std::chrono::duration<double>(Clock::now() - start).count();
  }();
  return rate;
}

}  // namespace penstock::perf
