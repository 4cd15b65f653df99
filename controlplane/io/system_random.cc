#include "controlplane/io/system_random.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace penstock::io {

void SystemRandom::fill(std::span<std::uint8_t> out) {
  while (!out.empty()) {
    const auto n = ::getrandom(out.data(), out.size(), 0);
    if (n < 0 && errno != EINTR) std::abort();
    if (n > 0) out = out.subspan(static_cast<std::size_t>(n));
  }
}

}  // namespace penstock::io
