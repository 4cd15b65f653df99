// AEAD backend that encrypts across packets, with the widest instructions that the machine has
// (chacha20_poly1305_x16.h, else chacha20_poly1305_x8.h), and with the best of the other backends for what does not
// fill the lanes: one packet alone, or with sixteen lanes a few long ones, is faster by itself.
#include <algorithm>
#include <array>
#include <cstring>

#include "dataplane/core/wireguard/aead_backends.h"
#include "dataplane/core/wireguard/chacha20_poly1305_x16.h"
#include "dataplane/core/wireguard/chacha20_poly1305_x8.h"

namespace penstock::wireguard {
namespace {

// Sixteen lanes: costs in cycles, measured (perf/run micro). Only the crossing matters, so round figures do.
constexpr std::uint64_t kPerCall = 400;
constexpr std::uint64_t kPerSixteen = 550;  // packets, for their first blocks
constexpr std::uint64_t kPerTurn = 650;     // 64 bytes in every lane
constexpr std::uint64_t single_cost(std::uint32_t length) {
  return 330 + (std::uint64_t{length} * 3) / 4;
}

// So few that one pass of the lanes is never worth it.
constexpr std::size_t kFew = 4;
static_assert(kFew * single_cost(0) <= kPerCall + kPerSixteen + kPerTurn);

constexpr std::uint32_t blocks_of(std::uint32_t length) {
  return length <= 64 ? 1 : (length + 63) / 64;
}

// All bits equal? Without early exit.
bool tags_equal(const std::uint8_t* a, const std::uint8_t* b) {
  std::uint64_t a0, a1, b0, b1;
  std::memcpy(&a0, a, 8);
  std::memcpy(&a1, a + 8, 8);
  std::memcpy(&b0, b, 8);
  std::memcpy(&b1, b + 8, 8);
  return ((a0 ^ b0) | (a1 ^ b1)) == 0;
}

class LanesContext final : public AeadContext {
 public:
  explicit LanesContext(std::unique_ptr<AeadContext> few)
      : few_(std::move(few)), sixteen_(chacha20_poly1305_x16_supported()) {}

  void seal(std::span<AeadJob> jobs) override { run<true>(jobs); }
  void open(std::span<AeadJob> jobs) override { run<false>(jobs); }
  [[nodiscard]] std::string_view name() const override { return "lanes"; }

 private:
  static constexpr std::size_t kChunk = 64;
  static constexpr std::size_t kLanes = 16;
  static_assert(kChunk <= kX8MaxPackets && kChunk <= kX16MaxPackets);

  template <bool Seal>
  void run(std::span<AeadJob> jobs) {
    for (std::size_t at = 0; at < jobs.size(); at += kChunk) {
      const std::span<AeadJob> chunk = jobs.subspan(at, std::min(kChunk, jobs.size() - at));
      if (sixteen_) {
        sixteen<Seal>(chunk);
      } else if (chunk.size() > 1) {
        eight<Seal>(chunk);
      } else {
        few<Seal>(chunk);
      }
    }
  }

  template <bool Seal>
  void few(std::span<AeadJob> jobs) {
    if constexpr (Seal) {
      few_->seal(jobs);
    } else {
      few_->open(jobs);
    }
  }

  // Eight blocks at a time, whosever they are: any mix of lengths does.
  template <bool Seal>
  void eight(std::span<AeadJob> jobs) {
    std::array<Lane, kChunk> lanes;
    lanes[0] = {};  // gcc does not see that there is a first job
    std::uint8_t tags[kChunk][kAeadTagSize];
    for (std::size_t i = 0; i < jobs.size(); ++i)
      lanes[i] = {jobs[i].key, jobs[i].counter, jobs[i].data, jobs[i].length};
    chacha20_poly1305_x8(lanes.data(), jobs.size(), Seal, tags);
    for (std::size_t i = 0; i < jobs.size(); ++i) settle<Seal>(jobs[i], tags[i]);
  }

  template <bool Seal>
  static void settle(AeadJob& job, const std::uint8_t* tag) {
    if constexpr (Seal) {
      std::memcpy(job.data + job.length, tag, kAeadTagSize);
      job.ok = true;
    } else {
      job.ok = tags_equal(job.data + job.length, tag);
    }
  }

  // Enough packets that are alike, as most bursts are, go as they are. Else the long ones go first, so that lanes end
  // together, and without those that lanes would still be at when the rest is done.
  template <bool Seal>
  void sixteen(std::span<AeadJob> jobs) {
    if (jobs.size() <= kFew) return few<Seal>(jobs);
    std::uint32_t shortest = ~std::uint32_t{0}, longest = 0;
    for (const AeadJob& job : jobs) {
      shortest = std::min(shortest, job.length);
      longest = std::max(longest, job.length);
    }
    if (jobs.size() >= kLanes && blocks_of(longest) == blocks_of(shortest)) {
      lanes<Seal>(jobs, [](std::size_t i) { return i; });
      return;
    }
    std::array<std::uint8_t, kChunk> order;
    long_first(jobs, order);
    const std::size_t alone = singles(jobs, order);
    if (alone > 0) {
      std::array<AeadJob, kChunk> copies;
      for (std::size_t i = 0; i < alone; ++i) copies[i] = jobs[order[i]];
      few<Seal>({copies.data(), alone});
      for (std::size_t i = 0; i < alone; ++i) jobs[order[i]].ok = copies[i].ok;
    }
    if (alone < jobs.size())
      lanes<Seal>(jobs.first(jobs.size() - alone), [&](std::size_t i) { return order[alone + i]; });
  }

  // As many as `jobs` are, of its memory: `at(i)` says which.
  template <bool Seal, typename At>
  static void lanes(std::span<AeadJob> jobs, At at) {
    std::array<Lane, kChunk> lanes;
    lanes[0] = {};  // gcc does not see that there is a first job
    std::uint8_t tags[kChunk][kAeadTagSize];
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const AeadJob& job = jobs.data()[at(i)];
      lanes[i] = {job.key, job.counter, job.data, job.length};
    }
    chacha20_poly1305_x16(lanes.data(), jobs.size(), Seal, tags);
    for (std::size_t i = 0; i < jobs.size(); ++i) settle<Seal>(jobs.data()[at(i)], tags[i]);
  }

  // By their blocks; all that have kClasses or more are alike.
  static void long_first(std::span<const AeadJob> jobs, std::array<std::uint8_t, kChunk>& order) {
    constexpr std::uint32_t kClasses = 32;  // up to 2 KiB
    std::array<std::uint8_t, kChunk> classes;
    std::array<std::uint8_t, kClasses + 1> from{};  // of each class; class 0 is the longest
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      classes[i] = static_cast<std::uint8_t>(kClasses - std::min(blocks_of(jobs[i].length), kClasses));
      ++from[classes[i] + 1U];
    }
    for (std::size_t i = 1; i < from.size(); ++i) from[i] = static_cast<std::uint8_t>(from[i] + from[i - 1]);
    for (std::size_t i = 0; i < jobs.size(); ++i) order[from[classes[i]]++] = static_cast<std::uint8_t>(i);
  }

  // How many, from the front, are better served one by one.
  static std::size_t singles(std::span<const AeadJob> jobs, const std::array<std::uint8_t, kChunk>& order) {
    // longest[i]: of those from i on.
    std::array<std::uint32_t, kChunk + 1> longest;
    longest[jobs.size()] = 0;
    std::uint64_t blocks = 0;
    for (std::size_t i = jobs.size(); i-- > 0;) {
      const std::uint32_t own = blocks_of(jobs[order[i]].length);
      blocks += own;
      longest[i] = std::max(longest[i + 1], own);
    }
    std::size_t best = 0;
    std::uint64_t cost = 0, least = ~std::uint64_t{0};
    for (std::size_t i = 0;; ++i) {
      const std::size_t left = jobs.size() - i;
      const std::uint64_t even = (blocks + kLanes - 1) / kLanes;
      const std::uint64_t with_lanes =
          left == 0 ? cost
                    : cost + kPerCall + kPerSixteen * ((left + kLanes - 1) / kLanes) +
                          kPerTurn * std::max<std::uint64_t>(longest[i], even);
      if (with_lanes < least) least = with_lanes, best = i;
      // Lanes that are busy to the end are not relieved by a packet less.
      if (left == 0 || (longest[i] <= even && left >= kLanes)) return best;
      const std::uint32_t length = jobs[order[i]].length;
      cost += single_cost(length);
      blocks -= blocks_of(length);
    }
  }

  const std::unique_ptr<AeadContext> few_;
  const bool sixteen_;
};

}  // namespace

std::unique_ptr<AeadContext> make_lanes_context() {
  if (!chacha20_poly1305_x16_supported() && !chacha20_poly1305_x8_supported()) return nullptr;
  auto few = make_ipsec_mb_context();
  if (!few) few = make_openssl_context();
  return few ? std::make_unique<LanesContext>(std::move(few)) : nullptr;
}

}  // namespace penstock::wireguard
