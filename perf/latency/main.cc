// perf-latency: how long packets take through the gateway while its worker is half loaded.
//
// The real worker loop over ports in memory. Packets arrive at random moments (a Poisson process) at half of the rate
// that the same gateway has just carried; a packet's time runs from its arrival to the end of the loop's turn in which
// it was sent. A turn that took more than 2 us longer than turns with as many packets usually do was interrupted by the
// machine: packets whose time overlaps such a gap are set aside, and their share is told.
#include <fmt/format.h>
#include <x86intrin.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "dataplane/core/packet/headers.h"
#include "dataplane/runtime/rcu.h"
#include "perf/harness/window.h"
#include "perf/rows/figures.h"

namespace penstock::perf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kGap = 2e-6;  // seconds
constexpr double kLoad = 0.5;
constexpr std::uint32_t kPackets = 24576;  // in one run; one of these lasts some ten milliseconds

struct Turn {
  std::uint64_t begin = 0, end = 0;
  std::uint32_t packets = 0;
};

struct Run {
  std::vector<std::uint64_t> arrival, departure;  // TSC, by packet
  std::vector<Turn> turns;
};

// Times in microseconds, of the packets that count.
struct Times {
  std::vector<double> counted;
  std::uint64_t aside = 0;
  std::vector<double> everything;
};

double quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const auto at = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1));
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(at));
  return values[at];
}

// What the worker carries, in packets per second: half of the windows are better.
double full_rate(BenchGateway& gateway, const Traffic& traffic, double seconds) {
  Window window(gateway, traffic, 1);
  Samples rate;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (int count = 0; Clock::now() < end || count < 6; ++count) {
    window.prepare();
    const Outcome outcome = window.run(false);
    if (const std::string wrong = window.verify(4); !wrong.empty()) {
      fmt::print(stderr, "{}\n", wrong);
      std::exit(1);
    }
    window.clean_up();
    if (count >= 2) rate.add(tsc_hz() * static_cast<double>(outcome.packets) / static_cast<double>(outcome.cycles));
  }
  return rate.median();
}

std::vector<Packet*> make_frames(BenchGateway& gateway, bool up, const std::vector<std::uint16_t>& sizes,
                                 std::mt19937_64& random) {
  std::vector<Packet*> frames;
  std::vector<wireguard::AeadJob> jobs;
  for (std::uint32_t number = 0; number < kPackets; ++number) {
    const Flow flow = flow_of(static_cast<std::uint32_t>(random() % gateway.shape().flows), gateway.shape().peers);
    const std::uint16_t size = sizes[random() % sizes.size()];
    wireguard::AeadJob job;
    Packet* frame = up ? gateway.frame_from_client(0, flow, size, number, tcp_flag::ack, job)
                       : gateway.frame_from_server(0, flow, size, number, tcp_flag::ack);
    if (frame == nullptr) break;
    if (up) jobs.push_back(job);
    frames.push_back(frame);
  }
  if (up) gateway.seal(jobs);
  return frames;
}

Run run_once(BenchGateway& gateway, bool up, const std::vector<std::uint16_t>& sizes, double rate,
             std::mt19937_64& random) {
  const std::vector<Packet*> frames = make_frames(gateway, up, sizes, random);
  Run run;
  run.arrival.resize(frames.size());
  run.departure.resize(frames.size());
  run.turns.reserve(frames.size() * 16);
  MemoryPort& in = gateway.port(up ? kWan : kLan);
  const MemoryPort& out = gateway.port(up ? kLan : kWan);
  in.lay_ready(0, frames);  // reserves room for what is sent
  std::exponential_distribution<double> gap(rate / tsc_hz());
  const std::uint64_t drops = gateway.drops();
  const std::uint64_t start = __rdtsc() + static_cast<std::uint64_t>(tsc_hz() * 1e-4);
  double at = 0;
  for (auto& arrival : run.arrival) arrival = start + static_cast<std::uint64_t>(at += gap(random));
  std::size_t arrived = 0;
  std::size_t taken = 0;
  std::size_t left = 0;  // packets that have left the gateway
  while (left < frames.size()) {
    const std::uint64_t begin = __rdtsc();
    while (arrived < frames.size() && run.arrival[arrived] <= begin) ++arrived;
    in.lay_ready(0, std::span(frames).subspan(taken, arrived - taken));
    gateway.step(0);
    const std::uint64_t end = __rdtsc();
    taken = arrived - in.left(0);
    const std::size_t sent = out.sent(0).size();
    run.turns.push_back({begin, end, static_cast<std::uint32_t>(sent - left)});
    for (; left < sent; ++left) run.departure[left] = end;
    if (gateway.drops() != drops) {
      fmt::print(stderr, "packets were lost: {}\n", gateway.describe_drops());
      std::exit(1);
    }
  }
  gateway.take_notes();
  gateway.free_sent();
  return run;
}

void judge(const Run& run, Times& times) {
  const double us = 1e6 / tsc_hz();
  std::vector<std::vector<double>> by_packets(kBurst * 4 + 1);
  const auto of = [&](const Turn& turn) -> std::vector<double>& {
    return by_packets[std::min<std::size_t>(turn.packets, by_packets.size() - 1)];
  };
  for (const Turn& turn : run.turns) of(turn).push_back(static_cast<double>(turn.end - turn.begin));
  std::vector<double> usual;
  for (auto& list : by_packets) usual.push_back(quantile(list, 0.5));
  std::vector<Turn> gaps;
  for (const Turn& turn : run.turns) {
    const double expected = usual[std::min<std::size_t>(turn.packets, usual.size() - 1)];
    if (static_cast<double>(turn.end - turn.begin) > expected + kGap * tsc_hz()) gaps.push_back(turn);
  }
  for (std::size_t i = 0; i < run.arrival.size(); ++i) {
    const double time = static_cast<double>(run.departure[i] - run.arrival[i]) * us;
    times.everything.push_back(time);
    // The first gap that ends after the packet came.
    const auto gap = std::ranges::lower_bound(gaps, run.arrival[i], {}, &Turn::end);
    if (gap != gaps.end() && gap->begin <= run.departure[i]) {
      ++times.aside;
    } else {
      times.counted.push_back(time);
    }
  }
}

nlohmann::json distribution(std::vector<double>& times) {
  nlohmann::json out = nlohmann::json::array();
  for (const double share : {0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995,
                             0.999, 0.9995, 0.9999, 1.0})
    out.push_back({quantile(times, share), share});
  return out;
}

int measure(bool quick, const std::string& json) {
  std::ofstream file(json);
  struct Case {
    const char* name;
    bool up;
    std::vector<std::uint16_t> sizes;
    std::uint16_t largest;
  };
  const std::vector<Case> cases = {{"up/64", true, {64}, 64},       {"up/imix", true, imix(), 1420},
                                   {"up/1420", true, {1420}, 1420}, {"down/64", false, {64}, 64},
                                   {"down/imix", false, imix(), 1420}, {"down/1420", false, {1420}, 1420}};
  std::mt19937_64 random(20261126);
  for (const Case& what : cases) {
    Shape shape;
    shape.largest = what.largest;
    shape.buffers = 2 * kPackets;
    BenchGateway gateway(shape);
    gateway.connect();
    gateway.open_flows();
    Traffic traffic;
    traffic.up = what.up;
    traffic.sizes = what.sizes;
    traffic.packets = std::min<std::size_t>(packets_in(gateway.pool(0), std::size_t{8} << 20), kPackets);
    const double full = full_rate(gateway, traffic, quick ? 0.5 : 2);
    Times times;
    const auto end = Clock::now() + std::chrono::duration<double>(quick ? 1.0 : 5.0);
    bool warm = false;
    while (Clock::now() < end) {
      const Run run = run_once(gateway, what.up, what.sizes, full * kLoad, random);
      if (warm) judge(run, times);
      warm = true;
    }
    const double packets = static_cast<double>(times.everything.size());
    const double aside = static_cast<double>(times.aside) / packets;
    const std::string note =
        fmt::format("at {:.2f} of {:.2f} Mpps; {:.2f} % of {:.0f} packets overlapped a gap and are set aside; "
                    "with them p99 "
                    "is {:.1f} us",
                    full * kLoad / 1e6, full / 1e6, aside * 100, packets, quantile(times.everything, 0.99));
    const auto row = [&](const char* figure, double value, const char* unit, nlohmann::json more) {
      nlohmann::json out = {{"suite", "latency"}, {"name", fmt::format("{}/{}", what.name, figure)}, {"value", value},
                            {"unit", unit},       {"better", "less"}};
      out.update(more);
      file << out << '\n';
    };
    row("p50", quantile(times.counted, 0.5), "us",
        {{"goal", 10}, {"note", note}, {"distribution", distribution(times.counted)}});
    row("p99", quantile(times.counted, 0.99), "us", {{"goal", 50}});
    row("p99.9", quantile(times.counted, 0.999), "us", nlohmann::json::object());
    row("set-aside", aside * 100, "%", {{"goal", 4}});
    fmt::print(stderr, "{}: p50 {:.2f} us, p99 {:.2f} us, {}\n", what.name, quantile(times.counted, 0.5),
               quantile(times.counted, 0.99), note);
  }
  if (!file.flush()) {
    fmt::print(stderr, "{}: cannot be written\n", json);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace penstock::perf

int main(int argc, char** argv) {
  CLI::App app("Measures the time of packets through the gateway at half load.");
  bool quick = false;
  std::string json;
  app.add_flag("--quick", quick, "a second per figure instead of five");
  app.add_option("--json", json, "file for the figures, one object per line")->required();
  CLI11_PARSE(app, argc, argv);
  const penstock::runtime::rcu::ThreadRegistration registration;
  return penstock::perf::measure(quick, json);
}
