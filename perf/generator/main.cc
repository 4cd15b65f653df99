// penstock-generator: a packet generator for a performance lab, and for perf/run's `memif` and `compare` suites.
#include <pthread.h>
#include <sched.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dataplane/runtime/system_random.h"
#include "perf/generator/load.h"
#include "perf/generator/search.h"
#include "perf/generator/test_keys.h"

namespace penstock::generator {
namespace {

const char* name_of(Direction direction) {
  return direction == Direction::up ? "up" : "down";
}

nlohmann::json to_json(const Trial& trial) {
  nlohmann::json out = {{"pps", trial.received_rate()}, {"gbit", trial.gbit()},       {"offered_pps", trial.rate()},
                        {"sent", trial.sent},           {"received", trial.received}, {"lost", trial.lost()},
                        {"refused", trial.refused},     {"checked", trial.checked},   {"corrupt", trial.corrupt},
                        {"seconds", trial.seconds}};
  if (trial.latency.count() > 0) {
    const auto us = [&](double share) { return static_cast<double>(trial.latency.quantile(share)) / 1e3; };
    out["latency_us"] = {{"p50", us(0.5)}, {"p90", us(0.9)}, {"p99", us(0.99)}, {"p999", us(0.999)},
                         {"max", static_cast<double>(trial.latency.largest()) / 1e3}};
    out["distribution"] = trial.latency.distribution();
  }
  return out;
}

void show(const char* what, Direction direction, const std::string& size, const Trial& trial) {
  std::fprintf(stderr, "%-4s %5s  %-9s %9.3f Mpps %8.3f Gbit/s  sent %lu lost %lu (%.4f %%) corrupt %lu of %lu",
               name_of(direction), size.c_str(), what, trial.received_rate() / 1e6, trial.gbit(), trial.sent,
               trial.lost(),
               trial.sent > 0 ? 100.0 * static_cast<double>(trial.lost()) / static_cast<double>(trial.sent) : 0.0,
               trial.corrupt, trial.checked);
  if (trial.latency.count() > 0)
    std::fprintf(stderr, "  p50 %.1f p99 %.1f us", static_cast<double>(trial.latency.quantile(0.5)) / 1e3,
                 static_cast<double>(trial.latency.quantile(0.99)) / 1e3);
  std::fprintf(stderr, "\n");
}

int fail(const std::string& why) {
  std::fprintf(stderr, "penstock-generator: %s\n", why.c_str());
  return 1;
}

void pin(const Options& options) {
  if (!options.core) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(*options.core, &set);
  if (::pthread_setaffinity_np(::pthread_self(), sizeof set, &set) != 0)
    std::fprintf(stderr, "penstock-generator: cannot be pinned to core %u\n", unsigned{*options.core});
}

int run(const Options& options) {
  pin(options);
  std::string error;
  const auto rig = Rig::open(options, error);
  if (!rig) return fail(error);
  runtime::SystemRandom random;
  Load load(options, *rig, random);
  nlohmann::json results = nlohmann::json::array();
  bool corrupt = false;
  for (const Direction direction : options.directions) {
    for (const std::string& size : options.sizes) {
      const auto sizes = sizes_of(size);
      const auto trial = [&](double rate) {
        if (error.empty()) error = load.prepare();
        return error.empty() ? load.run(direction, sizes, rate, options.seconds) : Trial{};
      };
      nlohmann::json result = {{"direction", name_of(direction)}, {"size", size}};
      Trial best;
      if (options.rate == 0) {
        const SearchResult found = search_no_drop_rate(
            {options.highest_rate, options.resolution, options.tolerance, options.retries}, trial);
        if (!error.empty()) return fail(error);
        best = found.best;
        show("overload", direction, size, found.overload);
        show("no drop", direction, size, best);
        result["overload"] = to_json(found.overload);
        result["trials"] = found.trials;
        result["generator_limited"] = found.generator_limited;
        if (best.sent == 0) std::fprintf(stderr, "%s %s: no rate without loss\n", name_of(direction), size.c_str());
      } else {
        best = trial(options.rate);
        if (!error.empty()) return fail(error);
        show(options.rate > 0 ? "at rate" : "overload", direction, size, best);
      }
      result["result"] = to_json(best);
      corrupt = corrupt || best.corrupt > 0;
      if (options.latency_share > 0 && best.sent > 0) {
        const Trial half = trial(best.received_rate() * options.latency_share);
        if (!error.empty()) return fail(error);
        show("latency", direction, size, half);
        result["latency"] = to_json(half);
      }
      results.push_back(std::move(result));
    }
  }
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    for (const auto& result : results) file << result << '\n';
    if (!file.flush()) return fail("cannot write " + options.json);
  }
  return corrupt ? fail("packets came back damaged") : 0;
}

}  // namespace
}  // namespace penstock::generator

int main(int argc, char** argv) {
  bool keys = false;
  const auto options = penstock::generator::parse_options(argc, argv, keys);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("generator"));
  spdlog::set_level(spdlog::level::warn);
  if (keys) {
    penstock::generator::print_static_section(options);
    return 0;
  }
  return penstock::generator::run(options);
}
