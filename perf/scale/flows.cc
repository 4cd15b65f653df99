// Memory of flows and the rate at which new ones are set up: the translator of one worker by itself, first packets of
// TCP and UDP flows (IPv6 inside, IPv4 outside), each judged by its peer's policy. As in the data plane, another thread
// maps the table's memory ahead ten times a second. One JSON object on stdout.
//
// Usage: perf-scale-flows FLOWS PEERS
#include <fmt/format.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/core/nat/translator.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/system_random.h"
#include "perf/harness/flows.h"
#include "perf/scale/resident.h"

namespace {

using namespace penstock;
using namespace penstock::perf;

constexpr std::size_t kRoom = 512;
constexpr std::uint32_t kWindow = 1 << 16;  // flows per sample of the rate

// The burst's buffers, used again and again.
class Buffers final : public PacketSource {
 public:
  Packet* allocate() override { return nullptr; }  // nothing is made here
  Packet* fresh(std::size_t i) {
    Slot& slot = slots_[i];
    slot.packet = Packet{};
    slot.packet.data = slot.bytes.data() + kMinHeadroom;
    slot.packet.length = kShortest;
    slot.packet.headroom = kMinHeadroom;
    slot.packet.tailroom = kRoom - kMinHeadroom - kShortest;
    return &slot.packet;
  }

 private:
  struct Slot {
    Packet packet;
    alignas(64) std::array<std::uint8_t, kRoom> bytes;
  };
  std::array<Slot, kBurst> slots_;
};

std::unique_ptr<policy::PeerPolicy> policy_of(std::uint32_t peer) {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer;
  out->tunnel_v4 = tunnel_address(peer, false);
  out->tunnel_v6 = tunnel_address(peer, true);
  policy::Authorisation right;
  right.id = "all";
  right.resource = "servers";
  right.pattern = "*.example";
  out->authorisations.push_back(right);
  for (unsigned server = 0; server < kServers; ++server) {
    policy::Translation name;
    name.id = name.name = fmt::format("s{}.example", server);
    name.resource = "servers";
    name.proxy_v6 = proxy_address(server, true);
    name.state = policy::TranslationState::active;
    name.real_v4 = {server_address(server, false)};
    out->translations.push_back(name);
  }
  out->seal();
  return out;
}

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || std::atol(argv[1]) < kWindow || std::atol(argv[2]) < 1) {
    std::fprintf(stderr, "usage: %s FLOWS (at least %u) PEERS\n", argv[0], kWindow);
    return 2;
  }
  const auto flows = static_cast<std::uint32_t>(std::atol(argv[1]));
  const auto peers = static_cast<std::uint32_t>(std::atol(argv[2]));
  runtime::SystemRandom random;
  Buffers buffers;
  std::vector<std::atomic<const policy::PeerPolicy*>> table(peers);
  std::vector<std::unique_ptr<policy::PeerPolicy>> policies;
  for (std::uint32_t peer = 0; peer < peers; ++peer) {
    policies.push_back(policy_of(peer));
    table[peer].store(policies.back().get());
  }

  const double before = resident("VmRSS:");
  const Instant began = runtime::read_clock().monotonic;
  nat::TranslatorConfig config;
  config.source_v4 = {gateway_lan(false)};
  config.max_flows = flows;
  config.max_flows_per_peer = flows;
  config.max_peers = peers;
  nat::Translator translator(config, random, buffers);
  const double ready_s = std::chrono::duration<double>(runtime::read_clock().monotonic - began).count();
  translator.map_ahead();
  const std::jthread ahead([&translator](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      translator.map_ahead();
    }
  });
  nat::Outcomes outcomes;
  std::array<Packet*, kBurst> burst;
  std::vector<double> cycles;  // per new flow, of each window
  std::uint64_t spent = 0;
  for (std::uint32_t first = 0; first < flows; first += kBurst) {
    const auto n = static_cast<std::uint32_t>(std::min<std::size_t>(kBurst, flows - first));
    for (std::uint32_t i = 0; i < n; ++i) {
      const Flow flow = flow_of(first + i, peers);
      burst[i] = buffers.fresh(i);
      burst[i]->peer = flow.peer;
      write_from_client(flow, {}, kShortest, first + i, tcp_flag::syn, burst[i]->data);
    }
    const Now now = runtime::read_clock();
    const std::uint64_t start = __rdtsc();
    translator.translate_up({burst.data(), n}, {table.data(), table.size()}, now, outcomes);
    spent += __rdtsc() - start;
    for (const auto& outcome : outcomes)
      if (outcome.action != nat::Action::to_outside) {
        std::fprintf(stderr, "flow %u of %u: refused: %s\n", first, flows,
                     std::string(name_of(outcome.reason)).c_str());
        return 1;
      }
    outcomes.clear();
    if ((first + kBurst) % kWindow == 0) {
      cycles.push_back(static_cast<double>(spent) / kWindow);
      spent = 0;
    }
  }
  if (translator.flow_count() != flows) {
    std::fprintf(stderr, "%u of %u flows\n", translator.flow_count(), flows);
    return 1;
  }
  const Instant clock = runtime::read_clock().monotonic;
  const std::uint64_t tsc = __rdtsc();
  while (runtime::read_clock().monotonic - clock < std::chrono::milliseconds(50)) {
  }
  const double hz = static_cast<double>(__rdtsc() - tsc) /
                    std::chrono::duration<double>(runtime::read_clock().monotonic - clock).count();
  const double typical = quantile(cycles, 0.5);
  std::printf(
      "{\"flows\": %u, \"bytes\": %.0f, \"peak_bytes\": %.0f, \"ready_s\": %.4f, \"cycles\": %.1f, \"mflows_s\": %.4f, "
      "\"low\": %.4f, \"high\": %.4f}\n",
      flows, resident("VmRSS:") - before, resident("VmHWM:") - before, ready_s, typical, hz / typical / 1e6,
      hz / quantile(cycles, 0.9) / 1e6, hz / quantile(cycles, 0.1) / 1e6);
  return 0;
}
