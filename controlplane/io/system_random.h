// The operating system's random numbers (getrandom) as the core's Random. Any thread, one object per thread or shared:
// there is no state. Ends the process when the kernel cannot deliver, which is worse than not running.
#pragma once

#include "dataplane/core/base/random.h"

namespace penstock::io {

class SystemRandom final : public Random {
 public:
  void fill(std::span<std::uint8_t> out) override;
};

}  // namespace penstock::io
