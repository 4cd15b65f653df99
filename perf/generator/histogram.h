// Times in nanoseconds, counted in buckets that are at most 1/32 of their value wide. O(1) to add; no allocation.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace penstock::generator {

class Histogram {
 public:
  void add(std::uint64_t nanoseconds) {
    ++counts_[bucket(nanoseconds)];
    ++total_;
    if (nanoseconds > largest_) largest_ = nanoseconds;
  }
  [[nodiscard]] std::uint64_t count() const { return total_; }
  [[nodiscard]] std::uint64_t largest() const { return largest_; }

  // The time that a share (0..1) of all does not exceed; 0 when empty.
  [[nodiscard]] std::uint64_t quantile(double share) const {
    const double wanted = share * static_cast<double>(total_);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > 0 && static_cast<double>(seen) >= wanted) return upper(i);
    }
    return largest_;
  }

  // (microseconds, share of packets not slower), one for each bucket in use.
  [[nodiscard]] std::vector<std::pair<double, double>> distribution() const {
    std::vector<std::pair<double, double>> out;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] == 0) continue;
      seen += counts_[i];
      out.emplace_back(static_cast<double>(upper(i)) / 1e3, static_cast<double>(seen) / static_cast<double>(total_));
    }
    return out;
  }

 private:
  static constexpr unsigned kBits = 5;  // buckets per doubling: 32
  static constexpr std::uint64_t kSteps = std::uint64_t{1} << kBits;

  static std::size_t bucket(std::uint64_t value) {
    if (value < kSteps) return value;
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kBits - 1;
    const std::size_t at = (std::size_t{shift} + 1) * kSteps + ((value >> shift) - kSteps);
    return at < kBuckets ? at : kBuckets - 1;
  }
  static std::uint64_t upper(std::size_t at) {
    if (at < kSteps) return at;
    const std::size_t shift = at / kSteps - 1;
    return ((kSteps + at % kSteps + 1) << shift) - 1;
  }

  static constexpr std::size_t kBuckets = kSteps * 36;  // up to 2^40 ns
  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t largest_ = 0;
};

}  // namespace penstock::generator
