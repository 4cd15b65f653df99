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

// Sixteen lanes: cost in cycles, measured (perf/run micro): a pass of the lanes pays for its longest packet whatever
// the number of lanes in use; the other backend pays per packet. Only the crossing matters, so round figures do.
constexpr std::uint64_t lanes_cost(std::uint32_t longest) {
  return 700 + 830 * ((std::uint64_t{longest} + 63) / 64);
}
constexpr std::uint64_t single_cost(std::uint32_t length) {
  return 330 + (std::uint64_t{length} * 3) / 4;
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
  static_assert(kChunk <= kX8MaxPackets);

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

  // Longest first, sixteen at a time, so that lanes of one pass are alike in length.
  template <bool Seal>
  void sixteen(std::span<AeadJob> jobs) {
    std::array<AeadJob*, kChunk> order;
    bool sorted = true;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      order[i] = &jobs[i];
      sorted = sorted && (i == 0 || jobs[i - 1].length >= jobs[i].length);
    }
    if (!sorted) {
      std::stable_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(jobs.size()),
                       [](const AeadJob* a, const AeadJob* b) { return a->length > b->length; });
    }
    std::size_t done = 0;
    while (done < jobs.size()) {
      const std::size_t left = std::min(kLanes, jobs.size() - done);
      const std::span<AeadJob*> group{order.data() + done, left};
      // A long packet among short ones would make every lane wait for it: it goes alone.
      if (group[0]->length > 2 * group[left - 1]->length + 256 || !lanes_pay(group)) {
        done += singles<Seal>(group);
      } else {
        pass<Seal>(group);
        done += left;
      }
    }
  }

  static bool lanes_pay(std::span<AeadJob* const> group) {
    std::uint64_t singly = 0;
    for (const AeadJob* job : group) singly += single_cost(job->length);
    return singly > lanes_cost(group[0]->length);
  }

  // Takes from the front of the group what is better served singly: all of it when the lanes do not pay, else the
  // packets that are far longer than the rest. Returns how many.
  template <bool Seal>
  std::size_t singles(std::span<AeadJob*> group) {
    std::size_t count = group.size();
    if (lanes_pay(group)) {
      const std::uint32_t shortest = group.back()->length;
      count = 0;
      while (count < group.size() && group[count]->length > 2 * shortest + 256) ++count;
    }
    std::array<AeadJob, kLanes> copies;
    for (std::size_t i = 0; i < count; ++i) copies[i] = *group[i];
    few<Seal>({copies.data(), count});
    for (std::size_t i = 0; i < count; ++i) group[i]->ok = copies[i].ok;
    return count;
  }

  template <bool Seal>
  void pass(std::span<AeadJob*> group) {
    std::array<Lane, kLanes> lanes;
    std::uint8_t tags[kLanes][kAeadTagSize];
    for (std::size_t i = 0; i < group.size(); ++i)
      lanes[i] = {group[i]->key, group[i]->counter, group[i]->data, group[i]->length};
    chacha20_poly1305_x16(lanes.data(), group.size(), Seal, tags);
    for (std::size_t i = 0; i < group.size(); ++i) settle<Seal>(*group[i], tags[i]);
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
