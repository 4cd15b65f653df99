// Deterministic randomness for tests: the same seed gives the same run on every machine (xoshiro-like quality is not
// needed; splitmix64).
#pragma once

#include "dataplane/core/base/random.h"

namespace penstock::model {

class SeededRandom : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}

  void fill(std::span<std::uint8_t> out) override {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (i % 8 == 0) word = next();
      out[i] = static_cast<std::uint8_t>(word >> (8 * (i % 8)));
    }
  }
  // True with a probability of `permille` in a thousand.
  bool chance(unsigned permille) { return below(1000) < permille; }

 private:
  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace penstock::model
