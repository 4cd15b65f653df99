#include "perf/pipeline/suite.h"

#include <fmt/format.h>

#include <chrono>
#include <map>

namespace penstock::perf {
namespace {

constexpr unsigned kSamplesPerWindow = 16;
constexpr double kBetterHalf = 0.25;  // of cycles: the median of the better half of the windows

struct Case {
  std::string name;
  bool up = true;
  std::vector<std::uint16_t> sizes;  // empty: translation alone
  std::uint16_t size = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"up/64", true, {64}, 64},         {"up/imix", true, imix(), 0},    {"up/1420", true, {1420}, 1420},
      {"down/64", false, {64}, 64},      {"down/imix", false, imix(), 0}, {"down/1420", false, {1420}, 1420},
      {"nat64/64", true, {}, 64},        {"nat64/1420", true, {}, 1420},
  };
  return all;
}

// Cycles per packet, of one name.
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
  const double aead = static_cast<double>(outcome.aead_cycles) / packets / workers;
  to.total.add(total);
  to.aead.add(aead * workers);
  to.rest.add((total - aead) * workers);
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
  traffic.packets = std::min(packets_in(gateway.pool(0), std::size_t{options.window_mib} << 20),
                             gateway.shape().buffers / 2);
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

void print_head(const Options& options, const BenchGateway& gateway, std::string_view aead) {
  fmt::print("pipeline: {} worker(s), {} peers, {} flows, NAT{}, trains of {}, AEAD {}, TSC {:.3f} GHz\n",
             options.workers, gateway.shape().peers, gateway.shape().flows, options.translation, options.train, aead,
             tsc_hz() / 1e9);
  fmt::print("{:<11}{:>8}{:>8}{:>9}{:>8}{:>8}{:>8}{:>9}{:>7}  {}\n", "", "Mpps", "Gbit/s", "cycles", "AEAD", "rest",
             "raw AEAD", "", "share", "cycles: best, median, 90 % (windows)");
}

void report(const Options& options, const Case& what, const Measured& m, std::vector<Figure>& figures) {
  const double cycles = m.total.quantile(kBetterHalf);
  const double mpps = tsc_hz() / cycles / 1e6;
  const double gbits = mpps * m.bytes_per_packet * 8 / 1000;
  const double raw = m.raw.quantile(kBetterHalf) / options.workers;
  const double share = m.share.median();
  fmt::print("{:<11}{:>8.2f}{:>8.2f}{:>9.0f}{:>8.0f}{:>8.0f}{:>8.0f}{:>9}{:>6.0f}%  {:.0f}, {:.0f}, {:.0f} ({})\n",
             what.name, mpps, gbits, cycles, m.aead.quantile(kBetterHalf), m.rest.quantile(kBetterHalf),
             m.raw.quantile(kBetterHalf), "", share * 100, m.total.quantile(0), m.total.median(), m.total.quantile(0.9),
             m.total.count());
  const double raw_mpps = tsc_hz() / raw / 1e6;
  const std::string peer = "the AEAD alone";
  const std::string name = what.name;
  figures.push_back({"pipeline", name, mpps, "Mpps", raw_mpps, peer, raw_mpps, share});
  const double raw_gbits = raw_mpps * m.bytes_per_packet * 8 / 1000;
  figures.push_back({"pipeline", name, gbits, "Gbit/s", raw_gbits, peer, raw_gbits, share});
  figures.push_back({"pipeline", name + "/rest", m.rest.quantile(kBetterHalf), "cycles", {}, "", {}, {}});
  figures.push_back({"pipeline", name + "/aead", m.aead.quantile(kBetterHalf), "cycles", m.raw.quantile(kBetterHalf),
                     peer, m.raw.quantile(kBetterHalf), {}});
  if (!options.stages) return;
  fmt::print("           ");
  for (std::size_t i = 0; i < gateway::kStageCount; ++i) {
    const double stage = m.stages[i].quantile(kBetterHalf);
    if (stage < 0.5) continue;
    fmt::print(" {} {:.0f}", gateway::kStageNames[i], stage);
    figures.push_back({"pipeline", fmt::format("{}/stage/{}", name, gateway::kStageNames[i]), stage, "cycles", {}, "",
                       {}, {}});
  }
  fmt::print(" (AEAD within decap, encap)\n");
}

}  // namespace

int run(const Options& options) {
  std::vector<Case> chosen;
  for (const Case& one : cases())
    if (options.names.empty() ||
        std::find(options.names.begin(), options.names.end(), one.name) != options.names.end())
      chosen.push_back(one);
  if (chosen.size() < options.names.size() || chosen.empty()) {
    fmt::print(stderr, "perf-pipeline: unknown name; see --help\n");
    return 2;
  }
  const double seconds = options.seconds.value_or(options.quick ? 1.0 : 3.0);
  std::vector<Figure> figures;
  bool head = false;
  for (const std::uint16_t largest : {std::uint16_t{64}, std::uint16_t{1420}}) {
    std::unique_ptr<BenchGateway> gateway;
    for (const Case& what : chosen) {
      // Small packets lie closer together in memory, so each size has its own buffers.
      if ((what.size == 64) != (largest == 64)) continue;
      if (gateway == nullptr) {
        Shape shape;
        shape.workers = options.workers;
        shape.peers = options.peers;
        shape.flows = options.flows;
        shape.families = {options.translation[0] == '6', options.translation[1] == '6'};
        shape.aead = options.aead;
        shape.largest = largest;
        shape.buffers = std::max<std::size_t>(std::size_t{options.window_mib} * 2048 * 2, 16384);
        gateway = std::make_unique<BenchGateway>(shape);
        gateway->connect();
        gateway->open_flows();
        if (!head) print_head(options, *gateway, gateway->aead(0).name());
        head = true;
      }
      std::string wrong;
      if (what.sizes.empty()) {
        const Samples cycles = measure_nat64(*gateway, what.size, seconds, wrong);
        if (wrong.empty()) {
          const double mpps = tsc_hz() / cycles.quantile(kBetterHalf) / 1e6;
          fmt::print("{:<11}{:>8.2f}{:>8.2f}{:>9.0f}{:>49}  {:.0f}, {:.0f}, {:.0f} ({})\n", what.name, mpps,
                     mpps * what.size * 8 / 1000, cycles.quantile(kBetterHalf), "", cycles.quantile(0), cycles.median(),
                     cycles.quantile(0.9), cycles.count());
          figures.push_back({"pipeline", what.name, mpps, "Mpps", {}, "", {}, {}});
          figures.push_back({"pipeline", what.name, mpps * what.size * 8 / 1000, "Gbit/s", {}, "", {}, {}});
        }
      } else {
        Measured measured;
        wrong = measure(*gateway, options, what, seconds, measured);
        if (wrong.empty()) report(options, what, measured, figures);
      }
      if (!wrong.empty()) {
        fmt::print(stderr, "perf-pipeline: {}: {}\n", what.name, wrong);
        return 1;
      }
      std::fflush(stdout);
    }
  }
  if (!write_json(options.json, figures)) {
    fmt::print(stderr, "perf-pipeline: {}: cannot be written\n", options.json);
    return 1;
  }
  return 0;
}

}  // namespace penstock::perf
