#include "dataplane/runtime/clock.h"

#include <ctime>

namespace penstock::runtime {

// CLOCK_BOOTTIME goes on in suspend, so that a session which has aged meanwhile is known to have aged (trap paths-20).
Now read_clock() {
  timespec monotonic{};
  timespec wall{};
  ::clock_gettime(CLOCK_BOOTTIME, &monotonic);
  ::clock_gettime(CLOCK_REALTIME, &wall);
  return {Instant(std::chrono::seconds(monotonic.tv_sec) + std::chrono::nanoseconds(monotonic.tv_nsec)),
          {static_cast<std::uint64_t>(wall.tv_sec), static_cast<std::uint32_t>(wall.tv_nsec)}};
}

}  // namespace penstock::runtime
