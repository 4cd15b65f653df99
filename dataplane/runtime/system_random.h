// The operating system's random numbers behind penstock::Random, fetched in blocks. One thread per object.
#pragma once

#include <array>
#include <cstddef>

#include "dataplane/core/base/random.h"

namespace penstock::runtime {

class SystemRandom final : public Random {
 public:
  ~SystemRandom() override;
  // Ends the process when the kernel has no random numbers.
  void fill(std::span<std::uint8_t> out) override;

 private:
  std::array<std::uint8_t, 1024> block_{};
  std::size_t used_ = sizeof block_;
};

}  // namespace penstock::runtime
