// The AEADs that this machine has, behind the data plane's own interface, side by side: bursts of packets with mixed
// keys, sealed, windows of all backends interleaved. One JSON object per backend and size on stdout.
//
// Usage: perf-compare-aead MILLISECONDS_PER_WINDOW ROUNDS SIZE...
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/core/wireguard/aead.h"

namespace {

using namespace penstock::wireguard;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBurst = 32;
constexpr std::size_t kKeys = 64;
constexpr std::size_t kRoom = 9216;

struct Contender {
  std::string name;
  std::unique_ptr<AeadContext> context;
  std::vector<double> cycles;  // per packet, one for each window
  std::vector<double> gbit;
};

// As many bursts as fit the window.
void window(Contender& contender, std::vector<std::uint8_t>& memory,
            const std::vector<std::array<std::uint8_t, 32>>& keys, std::uint32_t size, double seconds) {
  std::array<AeadJob, kBurst> jobs;
  std::uint64_t packets = 0;
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  const std::uint64_t from = __rdtsc();
  auto now = start;
  while (now < end) {
    for (int repeat = 0; repeat < 8; ++repeat) {
      for (std::size_t i = 0; i < kBurst; ++i)
        jobs[i] = {keys[(packets + i) % kKeys].data(), packets + i, memory.data() + i * kRoom, size, false};
      contender.context->seal(jobs);
      packets += kBurst;
    }
    now = Clock::now();
  }
  const auto cycles = static_cast<double>(__rdtsc() - from);
  const auto n = static_cast<double>(packets);
  contender.cycles.push_back(cycles / n);
  contender.gbit.push_back(n * size * 8 / std::chrono::duration<double>(now - start).count() / 1e9);
}

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s MILLISECONDS_PER_WINDOW ROUNDS SIZE...\n", argv[0]);
    return 2;
  }
  const double seconds = std::atof(argv[1]) / 1000;
  const int rounds = std::atoi(argv[2]);
  std::vector<Contender> contenders;
  for (const char* name : {"auto", "ipsec-mb", "openssl"}) {
    auto context = make_aead_context(name);
    if (context) contenders.push_back({name, std::move(context), {}, {}});
  }
  std::vector<std::uint8_t> memory(kBurst * kRoom);
  std::vector<std::array<std::uint8_t, 32>> keys(kKeys);
  for (std::size_t i = 0; i < kKeys; ++i) keys[i].fill(static_cast<std::uint8_t>(i + 1));
  for (int argument = 3; argument < argc; ++argument) {
    const auto size = static_cast<std::uint32_t>(std::atoi(argv[argument]));
    if (size == 0 || size + kAeadTagSize > kRoom) {
      std::fprintf(stderr, "size %s is not between 1 and 9200\n", argv[argument]);
      return 2;
    }
    for (auto& contender : contenders) contender.cycles.clear(), contender.gbit.clear();
    for (int round = 0; round < rounds; ++round)
      for (auto& contender : contenders) window(contender, memory, keys, size, seconds);
    for (const auto& contender : contenders)
      std::printf(
          "{\"backend\": \"%s\", \"context\": \"%s\", \"size\": %u, \"cycles\": %.1f, \"gbit\": %.4f, \"low\": %.4f, "
          "\"high\": %.4f}\n",
          contender.name.c_str(), std::string(contender.context->name()).c_str(), size, quantile(contender.cycles, 0.5),
          quantile(contender.gbit, 0.5), quantile(contender.gbit, 0.1), quantile(contender.gbit, 0.9));
  }
  return 0;
}
