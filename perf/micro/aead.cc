// The bulk encryption: every backend of this machine over the same packets, keys mixed packet by packet.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <vector>

#include "dataplane/core/wireguard/aead.h"
#include "perf/micro/suite.h"

namespace penstock::perf {
namespace {

using wireguard::AeadJob;

constexpr std::size_t kPackets = 64;

// Packets as a worker has them: each in its own buffer, at the stride of a packet pool, 16 bytes behind a header.
class Packets {
 public:
  explicit Packets(const std::vector<std::uint32_t>& lengths) {
    std::mt19937_64 random(1);
    std::uint32_t longest = 0;
    for (const std::uint32_t length : lengths) longest = std::max(longest, length);
    const std::size_t stride = (longest + 256 + 127) / 128 * 128;
    memory_.resize(kPackets * stride);
    for (auto& byte : memory_) byte = static_cast<std::uint8_t>(random());
    keys_.resize(kPackets * 32);
    for (auto& byte : keys_) byte = static_cast<std::uint8_t>(random());
    for (std::size_t i = 0; i < kPackets; ++i)
      jobs_.push_back({&keys_[32 * i], i, &memory_[i * stride + 144], lengths[i % lengths.size()], false});
  }
  [[nodiscard]] std::span<AeadJob> burst(std::size_t first, std::size_t n) { return {jobs_.data() + first, n}; }

 private:
  std::vector<std::uint8_t> memory_;
  std::vector<std::uint8_t> keys_;
  std::vector<AeadJob> jobs_;
};

void run(benchmark::State& state, const char* backend, bool seal, std::vector<std::uint32_t> lengths,
         std::size_t burst) {
  const auto context = wireguard::make_aead_context(backend);
  Packets packets(lengths);
  for (auto _ : state) {
    for (std::size_t at = 0; at + burst <= kPackets; at += burst) {
      if (seal) {
        context->seal(packets.burst(at, burst));
      } else {
        context->open(packets.burst(at, burst));
      }
    }
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * kPackets));
}

}  // namespace

void register_aead(bool quick) {
  struct Size {
    const char* name;
    std::vector<std::uint32_t> lengths;  // as WireGuard pads them
    bool always;
  };
  const std::vector<Size> sizes = {
      {"64", {64}, true},   {"256", {256}, false},
      {"576", {576}, true}, {"1420", {1424}, true},
      {"8900", {8912}, false},
      // 7:4:1 as they come, not sorted
      {"imix", {64, 576, 64, 64, 1424, 64, 576, 64, 576, 64, 64, 576}, true},
  };
  for (const char* backend : {"lanes", "ipsec-mb", "openssl"}) {
    if (!wireguard::make_aead_context(backend)) continue;
    for (const Size& size : sizes) {
      if (quick && !size.always) continue;
      for (const std::size_t burst : {1, 2, 4, 8, 16, 32, 64}) {
        if (quick && burst != 1 && burst != 8 && burst != 32) continue;
        for (const bool seal : {true, false}) {
          if (!seal && burst != 32) continue;
          const std::string name = std::string(seal ? "seal/" : "open/") + size.name + "/burst" +
                                   std::to_string(burst) +
                                   "/" + backend;
          benchmark::RegisterBenchmark(name.c_str(), [backend, seal, size, burst](benchmark::State& state) {
            run(state, backend, seal, size.lengths, burst);
          });
        }
      }
    }
  }
}

}  // namespace penstock::perf
