// Throughput of one worker with few and with many peers or flows: two whole gateways in this process, windows of both
// in turn, so that their ratio is of one run. One JSON object on stdout.
//
// Usage: perf-scale-throughput PEERS FLOWS MANY_PEERS MANY_FLOWS up|down SIZE SECONDS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/runtime/rcu.h"
#include "perf/harness/window.h"
#include "perf/rows/figures.h"

namespace {

using namespace penstock::perf;
using Clock = std::chrono::steady_clock;

struct Side {
  std::unique_ptr<BenchGateway> gateway;
  std::unique_ptr<Window> window;
  Samples mpps;
};

Side make(std::uint32_t peers, std::uint32_t flows, bool up, std::uint16_t size) {
  Shape shape;
  shape.peers = peers;
  shape.flows = flows;
  shape.largest = size;
  shape.buffers = 32768;
  Side out;
  std::fprintf(stderr, "%u peers, %u flows\n", peers, flows);
  const auto started = Clock::now();
  out.gateway = std::make_unique<BenchGateway>(shape);
  out.gateway->connect();
  std::fprintf(stderr, "sessions are up after %.1f s\n", std::chrono::duration<double>(Clock::now() - started).count());
  out.gateway->open_flows();
  Traffic traffic;
  traffic.up = up;
  traffic.sizes = {size};
  traffic.packets = std::min<std::size_t>(packets_in(out.gateway->pool(0), std::size_t{8} << 20), 16384);
  out.window = std::make_unique<Window>(*out.gateway, traffic, 1);
  return out;
}

// One window; false when a packet was lost or wrong.
bool measure(Side& side) {
  side.window->prepare();
  const Outcome outcome = side.window->run(false);
  const std::string wrong = side.window->verify(8);
  side.window->clean_up();
  if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
  side.mpps.add(tsc_hz() / (static_cast<double>(outcome.cycles) / static_cast<double>(outcome.packets)) / 1e6);
  return wrong.empty();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: %s PEERS FLOWS MANY_PEERS MANY_FLOWS up|down SIZE SECONDS\n", argv[0]);
    return 2;
  }
  const auto number = [&](int i) { return static_cast<std::uint32_t>(std::atol(argv[i])); };
  const bool up = std::string(argv[5]) == "up";
  const auto size = static_cast<std::uint16_t>(number(6));
  const penstock::runtime::rcu::ThreadRegistration registration;
  Side many = make(number(3), number(4), up, size);  // first: its set-up takes long, and sessions age
  Side few = make(number(1), number(2), up, size);
  const auto end = Clock::now() + std::chrono::duration<double>(std::atof(argv[7]));
  for (int round = 0; Clock::now() < end || round < 6; ++round) {
    if (!measure(few) || !measure(many)) return 1;
    if (round == 1) few.mpps = many.mpps = {};  // the first ones warm up
  }
  std::printf("{\"few\": %.5f, \"few_low\": %.5f, \"few_high\": %.5f, \"many\": %.5f, \"many_low\": %.5f, "
              "\"many_high\": "
              "%.5f, \"windows\": %zu}\n",
              few.mpps.median(), few.mpps.quantile(0.1), few.mpps.quantile(0.9), many.mpps.median(),
              many.mpps.quantile(0.1), many.mpps.quantile(0.9), many.mpps.count());
  return 0;
}
