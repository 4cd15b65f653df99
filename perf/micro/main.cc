// perf-micro: hot functions by themselves, in cycles of the time stamp counter, with the AEADs of intel-ipsec-mb and
// OpenSSL beside ours. Repetitions of all benchmarks are interleaved at random (Google Benchmark does that), so that a
// neighbour on the machine disturbs all alike; what counts is the median of the better half.
#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "perf/micro/suite.h"
#include "perf/rows/figures.h"

namespace penstock::perf {
namespace {

constexpr double kBetterHalf = 0.25;

// Cycles per item of every repetition, by name.
class Collector final : public benchmark::BenchmarkReporter {
 public:
  std::map<std::string, std::vector<double>> samples;
  bool failed = false;

  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      const auto items = run.counters.find("items_per_second");
      if (run.error_occurred || items == run.counters.end()) {
        std::fprintf(stderr, "perf-micro: %s: %s\n", run.benchmark_name().c_str(), run.error_message.c_str());
        failed = true;
        continue;
      }
      samples[run.run_name.function_name].push_back(tsc_hz() / items->second);
    }
  }
};

// What the AEAD should cost at most on a processor with AVX-512, and what it should be beside its peers anywhere.
struct Goal {
  const char* name;
  double cycles;
};
constexpr Goal kGoals[] = {{"seal/64/burst32", 110},   {"seal/256/burst32", 245},   {"seal/576/burst32", 471},
                           {"seal/1420/burst32", 1095}, {"seal/8900/burst32", 6174}};

// Cycles of a 64-byte packet from the tunnel to the LAN besides the look-up of its flow (docs/translation.md).
constexpr double kTranslation = 60;

// What a translation costs on top of its look-up: the whole call less what had to be done besides.
void add_translation(const Collector& collected, const std::string& base, std::vector<Figure>& rows) {
  const auto call = collected.samples.find(base + kWholeCall);
  const auto ready = collected.samples.find(base + kLayReady);
  const auto lookup = collected.samples.find(base + kLookUp);
  for (const auto& part : {call, ready, lookup})
    if (part == collected.samples.end()) return;
  const double besides = quantile(ready->second, kBetterHalf) + quantile(lookup->second, kBetterHalf);
  Figure row;
  row.suite = "micro";
  row.name = base;
  row.unit = "cycles";
  row.less_is_better = true;
  row.value = quantile(call->second, kBetterHalf) - besides;
  row.spread = {quantile(call->second, 0) - besides, quantile(call->second, 0.9) - besides};
  row.goal = kTranslation;
  row.note = "64-byte packet of an existing flow, warm, on top of the look-up";
  rows.push_back(row);
}

std::vector<Figure> rows_of(const Collector& collected) {
  std::vector<Figure> rows;
  const std::string ours = "/lanes";
  for (const auto& [name, samples] : collected.samples) {
    const bool aead = name.starts_with("seal/") || name.starts_with("open/");
    const bool lanes = name.ends_with(ours);
    if (aead && !lanes) continue;
    Figure row;
    row.suite = "micro";
    row.name = lanes ? name.substr(0, name.size() - ours.size()) : name;
    row.value = quantile(samples, kBetterHalf);
    row.unit = "cycles";
    row.less_is_better = true;
    row.spread = {quantile(samples, 0), quantile(samples, 0.9)};
    if (!aead) {
      rows.push_back(row);
      continue;
    }
    for (const Goal& goal : kGoals)
      if (row.name == goal.name) row.goal = goal.cycles, row.reference_only = true;
    const std::string base = row.name;
    for (const auto& [suffix, peer] : {std::pair{"ipsec-mb", "intel-ipsec-mb"}, std::pair{"openssl", "OpenSSL"}}) {
      const auto found = collected.samples.find(base + "/" + suffix);
      if (found == collected.samples.end()) continue;
      row.peer = peer;
      row.peer_value = quantile(found->second, kBetterHalf);
      row.ratio = *row.peer_value / row.value;
      if (row.peer == "OpenSSL") row.name = base + "/openssl", row.goal.reset(), row.reference_only = false;
      rows.push_back(row);
    }
  }
  for (const auto& [name, samples] : collected.samples)
    if (name.ends_with(kWholeCall)) add_translation(collected, name.substr(0, name.rfind('/')), rows);
  return rows;
}

int run(bool quick, const std::string& filter, const std::string& json) {
  register_aead(quick);
  register_functions();
  register_translation();
  const std::string time = std::string("--benchmark_min_time=") + (quick ? "0.004" : "0.02");
  const std::string repetitions = std::string("--benchmark_repetitions=") + (quick ? "7" : "15");
  std::string chosen = "--benchmark_filter=" + filter;
  std::vector<std::string> words{"perf-micro", time, repetitions, "--benchmark_enable_random_interleaving=true"};
  if (!filter.empty()) words.push_back(chosen);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  std::fprintf(stderr, "measuring, interleaved\n");
  Collector collected;
  const std::size_t ran = benchmark::RunSpecifiedBenchmarks(&collected);
  if (ran == 0 || collected.failed) {
    std::fprintf(stderr, "perf-micro: nothing measured\n");
    return 1;
  }
  const std::vector<Figure> rows = rows_of(collected);
  std::printf("%-28s%10s  %-16s%10s%8s\n", "cycles per item", "", "beside", "", "ratio");
  for (const Figure& row : rows) {
    std::printf("%-28s%10.1f  (%.1f to %.1f)", row.name.c_str(), row.value, row.spread->first, row.spread->second);
    if (row.peer_value) std::printf("  %-16s%10.1f%8.2f", row.peer.c_str(), *row.peer_value, *row.ratio);
    std::printf("\n");
  }
  if (!write_json(json, rows)) {
    std::fprintf(stderr, "perf-micro: %s: cannot be written\n", json.c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace penstock::perf

int main(int argc, char** argv) {
  CLI::App app{"Hot functions by themselves, in cycles"};
  bool quick = false;
  std::string filter, json;
  app.add_flag("--quick", quick, "fewer sizes and repetitions");
  app.add_option("--filter", filter, "regular expression of names");
  app.add_option("--json", json, "write one JSON object per figure to this file");
  CLI11_PARSE(app, argc, argv);
  return penstock::perf::run(quick, filter, json);
}
