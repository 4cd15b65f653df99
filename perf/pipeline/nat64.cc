// Translation alone: inner packets of open flows through nat::Translator, from the tunnel to the LAN.
#include <x86intrin.h>

#include <chrono>
#include <random>

#include "dataplane/runtime/clock.h"
#include "perf/pipeline/suite.h"

namespace penstock::perf {
namespace {

constexpr std::size_t kWindow = 8192;

}  // namespace

Samples measure_nat64(BenchGateway& gateway, std::uint16_t size, double seconds, std::string& wrong) {
  const Shape& shape = gateway.shape();
  MemoryPool& pool = gateway.pool(0);
  std::mt19937_64 random(1);
  Samples out;
  nat::Outcomes outcomes;
  std::vector<Packet*> packets;
  std::vector<Flow> flows;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  const std::size_t window = std::min(kWindow, shape.buffers / 2);
  for (unsigned count = 0; Clock::now() < end || count < 8; ++count) {
    packets.clear();
    flows.clear();
    for (std::size_t i = 0; i < window; ++i) {
      flows.push_back(flow_of(static_cast<std::uint32_t>(random() % shape.flows), shape.peers));
      Packet* packet = pool.allocate();
      if (packet == nullptr) break;
      packet->append(size);
      write_from_client(flows.back(), shape.families, size, static_cast<std::uint32_t>(i), tcp_flag::ack, packet->data);
      packet->peer = gateway.peer(flows.back().peer);
      packet->flags = packet_flag::from_tunnel;
      packets.push_back(packet);
    }
    const Now now = runtime::read_clock();
    std::size_t passed = 0;
    const std::uint64_t start = __rdtsc();
    for (std::size_t at = 0; at < packets.size(); at += kBurst) {
      gateway.translator(0).translate_up(std::span(packets).subspan(at, std::min(kBurst, packets.size() - at)),
                                         gateway.policies().view(), now, outcomes);
      for (const nat::Outcome& outcome : outcomes) passed += outcome.action == nat::Action::to_outside ? 1 : 0;
      outcomes.clear();
    }
    const std::uint64_t cycles = __rdtsc() - start;
    if (passed != packets.size()) wrong = "not every packet was translated";
    for (unsigned sample = 0; sample < 16 && wrong.empty(); ++sample) {
      const std::size_t i = random() % packets.size();
      wrong = check_on_lan(flows[i], shape.families, size, static_cast<std::uint32_t>(i),
                           gateway.translated_port(flows[i].number), packets[i]->bytes());
    }
    pool.release(packets);
    if (!wrong.empty()) return out;
    if (count >= 2) out.add(static_cast<double>(cycles) / static_cast<double>(packets.size()));
  }
  return out;
}

}  // namespace penstock::perf
