#include "dataplane/io/fanout.h"

#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace {
std::atomic<int> keepers{0};
}  // namespace

// In front of libc's, also for the driver, which is loaded at run time: see link_args of the executables.
extern "C" __attribute__((visibility("default"))) int setsockopt(int socket, int level, int option, const void* value,
                                                                 socklen_t length) noexcept {
  std::uint32_t group = 0;
  if (level == SOL_PACKET && option == PACKET_FANOUT && length == sizeof group &&
      keepers.load(std::memory_order_relaxed) != 0) {
    std::memcpy(&group, value, sizeof group);
    group &= ~(std::uint32_t{PACKET_FANOUT_FLAG_DEFRAG} << 16);  // type and flags are the upper half
    value = &group;
  }
  return static_cast<int>(syscall(SYS_setsockopt, socket, level, option, value, length));
}

namespace penstock::io {

KeepFragments::KeepFragments() {
  keepers.fetch_add(1, std::memory_order_relaxed);
}
KeepFragments::~KeepFragments() {
  keepers.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace penstock::io
