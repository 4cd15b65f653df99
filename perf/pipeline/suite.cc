#include "perf/pipeline/suite.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "perf/pipeline/cases.h"

namespace penstock::perf {
namespace {

constexpr unsigned kSamplesPerWindow = 16;
constexpr double kBetterHalf = 0.25;  // of cycles: the median of the better half of the windows

// Cycles per packet, of one case.
struct Measured {
  Samples total;
  Samples aead;
  Samples rest;
  Samples raw;
  Samples share;  // of raw speed
  std::array<Samples, gateway::kStageCount> stages;
  double bytes_per_packet = 0;
};

void add(Measured& to, const Outcome& outcome, std::uint16_t workers, bool stages) {
  const auto packets = static_cast<double>(outcome.packets);
  const double total = static_cast<double>(outcome.cycles) / packets;
  if (stages) {  // timing stages costs a little: these windows count for nothing else
    for (std::size_t i = 0; i < to.stages.size(); ++i)
      to.stages[i].add(static_cast<double>(outcome.stage_cycles[i]) / packets);
    return;
  }
  const double aead = static_cast<double>(outcome.aead_cycles) / packets;
  to.total.add(total);
  to.aead.add(aead);
  to.rest.add(total * workers - aead);
  if (outcome.raw_packets != 0) {
    const double raw = static_cast<double>(outcome.raw_cycles) / static_cast<double>(outcome.raw_packets);
    to.raw.add(raw);
    to.share.add(raw / (total * workers));
  }
  to.bytes_per_packet = static_cast<double>(outcome.bytes) / packets;
}

std::string measure(BenchGateway& gateway, const Options& options, const Case& what, double seconds,
                    Measured& measured) {
  Traffic traffic;
  traffic.up = what.up;
  traffic.sizes = what.sizes;
  traffic.train = options.train;
  traffic.packets =
      std::min(packets_in(gateway.pool(0), std::size_t{options.window_mib} << 20), gateway.shape().buffers / 2);
  Window window(gateway, traffic, 1);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (unsigned count = 0; Clock::now() < end || count < 8; ++count) {
    const bool stages = options.stages && count % 2 != 0;
    window.prepare();
    Outcome outcome = window.run(stages);
    if (std::string wrong = window.verify(kSamplesPerWindow); !wrong.empty()) return wrong;
    window.measure_raw(outcome);
    window.clean_up();
    if (count >= 2) add(measured, outcome, gateway.shape().workers, stages);  // the first ones warm tables up
  }
  return {};
}

class Report {
 public:
  explicit Report(const Options& options) : options_(options) {}

  void head(const BenchGateway& gateway, std::string_view aead) {
    if (std::exchange(head_, true)) return;
    fmt::print("pipeline: {} peers, {} flows, NAT{}, trains of {}, AEAD {}, TSC {:.3f} GHz\n", gateway.shape().peers,
               gateway.shape().flows, options_.translation, options_.train, aead, tsc_hz() / 1e9);
    fmt::print("{:<14}{:>8}{:>8}{:>8}{:>8}{:>8}{:>10}{:>7}  {}\n", "", "Mpps", "Gbit/s", "cycles", "AEAD", "rest",
               "raw AEAD", "share", "cycles: best, median, 90 % (windows)");
  }

  void path(const Case& what, const Measured& m) {
    const double cycles = m.total.quantile(kBetterHalf);
    const double mpps = mpps_of(cycles);
    const double bits = m.bytes_per_packet * 8 / 1000;
    const double raw = m.raw.quantile(kBetterHalf) / what.workers;
    fmt::print("{:<14}{:>8.2f}{:>8.2f}{:>8.0f}{:>8.0f}{:>8.0f}{:>10.0f}{:>6.0f}%  {:.0f}, {:.0f}, {:.0f} ({})",
               what.name, mpps, mpps * bits, cycles, m.aead.quantile(kBetterHalf), m.rest.quantile(kBetterHalf),
               m.raw.quantile(kBetterHalf), m.share.median() * 100, m.total.quantile(0), m.total.median(),
               m.total.quantile(0.9), m.total.count());
    const Goal& goal = what.goal;
    for (const bool packets : {true, false}) {
      const double factor = packets ? 1 : bits;
      Figure figure{.suite = "pipeline", .name = what.name, .value = mpps * factor,
                    .unit = packets ? "Mpps" : "Gbit/s"};
      figure.limit = mpps_of(raw) * factor;
      figure.spread = {mpps_of(m.total.quantile(0.9)) * factor, mpps_of(m.total.quantile(0.1)) * factor};
      figure.best = mpps_of(m.total.quantile(0)) * factor;
      if (packets == goal.in_packets) {
        if (goal.goal > 0) figure.goal = goal.goal;
        if (goal.floor > 0) figure.floor = goal.floor;
        if (goal.share > 0) figure.goal_share = goal.share;
      }
      figure.reference_only = true;
      figures.push_back(figure);
    }
    Figure rest{.suite = "pipeline", .name = what.name + "/rest", .value = m.rest.quantile(kBetterHalf),
                .unit = "cycles"};
    if (goal.rest > 0) rest.goal = goal.rest;
    rest.spread = {m.rest.quantile(0.1), m.rest.quantile(0.9)};
    rest.less_is_better = rest.reference_only = true;
    rest.note = "all that is not the AEAD, per packet";
    for (std::size_t i = 0; i < gateway::kStageCount; ++i)
      if (const double stage = m.stages[i].quantile(kBetterHalf); stage >= 0.5)
        rest.stages[std::string(gateway::kStageNames[i])] = stage;
    if (options_.stages) {
      fmt::print("\n   ");
      for (const auto& [stage, count] : rest.stages) fmt::print(" {} {:.0f}", stage, count);
      fmt::print(" (AEAD within decap, encap)");
    }
    figures.push_back(rest);
    scaling(what, mpps);
    fmt::print("\n");
  }

  void translation(const Case& what, const Samples& cycles) {
    const double mpps = mpps_of(cycles.quantile(kBetterHalf));
    fmt::print("{:<14}{:>8.2f}{:>8.2f}{:>8.0f}{:>41}  {:.0f}, {:.0f}, {:.0f} ({})\n", what.name, mpps,
               mpps * what.size * 8 / 1000, cycles.quantile(kBetterHalf), "", cycles.quantile(0), cycles.median(),
               cycles.quantile(0.9), cycles.count());
    Figure figure{.suite = "pipeline", .name = what.name, .value = mpps, .unit = "Mpps"};
    figure.spread = {mpps_of(cycles.quantile(0.9)), mpps_of(cycles.quantile(0.1))};
    figure.best = mpps_of(cycles.quantile(0));
    figure.goal = what.goal.goal;
    figure.reference_only = true;
    figures.push_back(figure);
    figures.push_back(
        {.suite = "pipeline", .name = what.name, .value = mpps * what.size * 8 / 1000, .unit = "Gbit/s"});
  }

  std::vector<Figure> figures;

 private:
  static double mpps_of(double cycles) { return tsc_hz() / cycles / 1e6; }

  // Two workers beside one.
  void scaling(const Case& what, double mpps) {
    if (what.workers == 1) {
      single_[what.base] = mpps;
      return;
    }
    const auto one = single_.find(what.base);
    if (one == single_.end()) return;
    const double times = mpps / one->second;
    fmt::print("  {:.2f} x one worker", times);
    Figure figure{.suite = "pipeline", .name = what.name + "/times", .value = times, .unit = "x one worker"};
    figure.goal = what.goal.times;
    figure.note = "the two processors may share a core: see what the AEAD alone loses";
    figures.push_back(figure);
  }

  const Options& options_;
  bool head_ = false;
  std::map<std::string, double> single_;
};

std::unique_ptr<BenchGateway> make_gateway(const Options& options, const Case& what) {
  Shape shape;
  shape.workers = what.workers;
  shape.peers = what.one_peer ? 1 : options.peers;
  shape.flows = options.flows;
  shape.families = {options.translation[0] == '6', options.translation[1] == '6'};
  shape.aead = options.aead;
  shape.largest = what.size == 64 ? 64 : 1420;  // small packets lie closer together in memory
  shape.buffers = std::max<std::size_t>(std::size_t{options.window_mib} * 2048 * 2, 16384);
  auto gateway = std::make_unique<BenchGateway>(shape);
  gateway->connect();
  gateway->open_flows();
  return gateway;
}

}  // namespace

int run(const Options& options) {
  const std::vector<Case> chosen = choose_cases(options);
  if (chosen.empty()) {
    fmt::print(stderr, "perf-pipeline: unknown name; see --help\n");
    return 2;
  }
  const double seconds = options.seconds.value_or(options.quick ? 1.0 : 3.0);
  Report report(options);
  std::unique_ptr<BenchGateway> gateway;
  const Case* made_for = nullptr;
  for (const Case& what : chosen) {
    const bool fits = made_for != nullptr && made_for->workers == what.workers && made_for->one_peer == what.one_peer &&
                      (made_for->size == 64) == (what.size == 64);
    if (!fits) {
      gateway.reset();
      gateway = make_gateway(options, what);
      made_for = &what;
    }
    fmt::print(stderr, "{}\n", what.name);
    report.head(*gateway, gateway->aead(0).name());
    std::string wrong;
    if (what.sizes.empty()) {
      const Samples cycles = measure_nat64(*gateway, what.size, seconds, wrong);
      if (wrong.empty()) report.translation(what, cycles);
    } else {
      Measured measured;
      wrong = measure(*gateway, options, what, seconds, measured);
      if (wrong.empty()) report.path(what, measured);
    }
    if (!wrong.empty()) {
      fmt::print(stderr, "perf-pipeline: {}: {}\n", what.name, wrong);
      return 1;
    }
    std::fflush(stdout);
  }
  if (!write_json(options.json, report.figures)) {
    fmt::print(stderr, "perf-pipeline: {}: cannot be written\n", options.json);
    return 1;
  }
  return 0;
}

}  // namespace penstock::perf
