// Searches random scenarios for one that the reference model disagrees with. Exit code 0: none; 1: found; 2: usage.
//
//   soak --virtual 24h --seeds 20 [--from-seed S] [--jobs J] [--state FILE|none] [--keep-going]
//   soak --virtual 120s --seed S [--only 3,7] [--log]        one scenario again, with these events alone
//   soak --virtual 120s --seed S --trace 28000-29500         the same, with every datagram between these milliseconds
//
// Resumable: seeds that were fine are written to FILE (default: beside the program, one per length) and not run again,
// unless the program has changed meanwhile.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

#include "tests/model/system/run_seeds.h"

namespace penstock::model {
namespace {

struct Options {
  Duration length = std::chrono::seconds{120};
  std::uint64_t from = 1, seeds = 1000;
  std::optional<std::uint64_t> seed;
  std::optional<std::vector<unsigned>> only;
  unsigned jobs = 1, patience = 0;
  std::string state;
  bool log = false, keep_going = false;
  std::pair<Duration, Duration> traced{};
  std::string length_text = "120s", without_text;
  std::set<Mishap> without;

  [[nodiscard]] Scenario scenario(std::uint64_t which) const { return make_scenario(which, length, without); }
};

std::optional<Duration> parse_duration(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  const double factor = unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (factor == 0 || value <= 0) return std::nullopt;
  return std::chrono::milliseconds{static_cast<std::int64_t>(value * factor * 1000)};
}

int usage(const std::string& why) {
  std::fprintf(stderr,
               "soak: %s\n"
               "usage: soak [--virtual 120s|24h] [--seeds N] [--from-seed S] [--jobs J] [--state FILE|none]\n"
               "                       [--keep-going] [--patience SECONDS] [--without MISHAP,...] "
               "| --seed S [--only I,J...] [--log]\n"
               "                       [--trace FROM-UNTIL]\n",
               why.c_str());
  return 2;
}

// What the program is; a seed that an older one found fine has to be run again.
std::string fingerprint() {
  struct stat status {};
  if (::stat("/proc/self/exe", &status) != 0) return "unknown";
  return std::to_string(status.st_size) + "." + std::to_string(status.st_mtim.tv_sec) + "." +
         std::to_string(status.st_mtim.tv_nsec);
}

// Seeds that are done, one a line: "SEED ok|FAILED LENGTH PROGRAM".
std::set<std::uint64_t> read_state(const std::string& file, const std::string& length) {
  std::set<std::uint64_t> out;
  std::ifstream in(file);
  std::uint64_t seed = 0;
  std::string verdict, which, program;
  while (in >> seed >> verdict >> which >> program)
    if (verdict == "ok" && which == length && program == fingerprint()) out.insert(seed);
  return out;
}

void report(const Outcome& outcome, const Options& options) {
  const Scenario plan = options.scenario(outcome.seed);
  std::printf("FAILED seed %llu: %s\n", static_cast<unsigned long long>(outcome.seed), outcome.violation.c_str());
  std::fflush(stdout);
  const Minimised least = minimise(plan, 60, options.patience);
  if (least.outcome.violation.empty()) {
    std::printf("  did not fail again: not repeatable\n%s", plan.to_string().c_str());
    return;
  }
  std::string list;
  for (const unsigned i : least.kept) list += (list.empty() ? "" : ",") + std::to_string(i);
  Scenario shown = plan;
  shown.events.clear();
  std::printf("%s  with %zu of %zu events (%u runs): %s\n", shown.to_string().c_str(), least.kept.size(),
              plan.events.size(), least.runs, least.outcome.violation.c_str());
  for (const unsigned i : least.kept) std::printf("    event %u: %s\n", i, plan.events[i].to_string().c_str());
  std::printf("  again: build/tests/model/soak --virtual %s%s --seed %llu --only '%s' --log\n",
              options.length_text.c_str(),
              options.without.empty() ? "" : (" --without " + options.without_text).c_str(),
              static_cast<unsigned long long>(outcome.seed), list.c_str());
  std::fflush(stdout);
}

int play_one(const Options& options) {
  Scenario plan = options.scenario(*options.seed);
  if (options.only) plan = with_only(plan, *options.only);
  std::printf("%s", plan.to_string().c_str());
  std::function<void(const std::string&)> log;
  if (options.log) log = [](const std::string& text) { std::printf("%s\n", text.c_str()); };
  const Outcome outcome = play(plan, log, options.traced);
  std::printf("%s, digest %s, %.2f s\n", outcome.ok ? "ok" : outcome.violation.c_str(), outcome.digest.c_str(),
              outcome.seconds);
  return outcome.ok ? 0 : 1;
}

int search(const Options& options) {
  const std::string kind = options.length_text + (options.without.empty() ? "" : "-without-" + options.without_text);
  const auto done = read_state(options.state, kind);
  const std::string program = fingerprint();
  std::vector<std::uint64_t> seeds;
  for (std::uint64_t i = 0; i < options.seeds; ++i)
    if (!done.contains(options.from + i)) seeds.push_back(options.from + i);
  std::ofstream state;
  if (!options.state.empty()) state.open(options.state, std::ios::app);
  std::size_t finished = 0, failed = 0;
  double seconds = 0, longest = 0;
  const auto started = std::chrono::steady_clock::now();
  auto told = started;
  const auto scenario = [&](std::uint64_t seed) { return options.scenario(seed); };
  run_seeds(seeds, scenario, options.jobs, options.patience, [&](const Outcome& outcome) {
    ++finished;
    seconds += outcome.seconds;
    longest = std::max(longest, outcome.seconds);
    if (state.is_open())
      state << outcome.seed << (outcome.ok ? " ok " : " FAILED ") << kind << " " << program << std::endl;
    if (!outcome.ok) {
      ++failed;
      report(outcome, options);
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - told > std::chrono::seconds{10}) {
      told = now;
      std::printf("%zu of %zu seeds, %zu failed\n", finished, seeds.size(), failed);
      std::fflush(stdout);
    }
    return outcome.ok || options.keep_going;
  });
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  std::printf("model: %zu seeds x %s: %zu failed, %zu done before, %zu not run; %.0f s (%.3f s a seed, "
              "longest %.2f s)\n",
              finished, options.length_text.c_str(), failed, done.size(), seeds.size() - finished, wall,
              finished == 0 ? 0 : seconds / static_cast<double>(finished), longest);
  return failed == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--log") {
      options.log = true;
      continue;
    }
    if (name == "--keep-going") {
      options.keep_going = true;
      continue;
    }
    if (i + 1 == argc) return usage(name + " needs a value, or is unknown");
    const std::string value = argv[++i];
    if (name == "--virtual") {
      const auto length = parse_duration(value);
      if (!length || *length < std::chrono::seconds{60}) return usage("--virtual must be 60s or more: " + value);
      options.length = *length;
      options.length_text = value;
    } else if (name == "--seeds") {
      options.seeds = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--from-seed") {
      options.from = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--seed") {
      options.seed = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--jobs") {
      options.jobs = static_cast<unsigned>(std::max(1L, std::strtol(value.c_str(), nullptr, 10)));
    } else if (name == "--patience") {
      options.patience = static_cast<unsigned>(std::strtoul(value.c_str(), nullptr, 10));
    } else if (name == "--state") {
      options.state = value;
    } else if (name == "--without") {
      options.without_text = value;
      for (std::size_t at = 0; at < value.size();) {
        const std::size_t comma = std::min(value.find(',', at), value.size());
        const auto kind = mishap_called(std::string_view{value}.substr(at, comma - at));
        if (!kind) return usage("no such mishap: " + value.substr(at, comma - at));
        options.without.insert(*kind);
        at = comma + 1;
      }
    } else if (name == "--trace") {
      const std::size_t dash = value.find('-');
      if (dash == std::string::npos) return usage("--trace takes two times in milliseconds: " + value);
      options.traced = {std::chrono::milliseconds{std::strtol(value.c_str(), nullptr, 10)},
                        std::chrono::milliseconds{std::strtol(value.c_str() + dash + 1, nullptr, 10)}};
      options.log = true;
    } else if (name == "--only") {
      options.only.emplace();
      for (std::size_t at = 0; at < value.size();) {
        const std::size_t comma = std::min(value.find(',', at), value.size());
        options.only->push_back(static_cast<unsigned>(std::strtoul(value.substr(at, comma - at).c_str(), nullptr, 10)));
        at = comma + 1;
      }
    } else {
      return usage("unknown option " + name);
    }
  }
  if (options.state.empty()) {
    char path[4096] = {};
    const auto length = ::readlink("/proc/self/exe", path, sizeof path - 1);
    if (length > 0) options.state = std::string(path) + "-" + options.length_text + ".state";
  } else if (options.state == "none") {
    options.state.clear();
  }
  if (options.patience == 0)
    options.patience = 30 + static_cast<unsigned>(options.length / std::chrono::seconds{20});
  return options.seed ? play_one(options) : search(options);
}

}  // namespace
}  // namespace penstock::model

int main(int argc, char** argv) {
  return penstock::model::main(argc, argv);
}
