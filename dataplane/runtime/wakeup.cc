#include "dataplane/runtime/wakeup.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <system_error>

namespace penstock::runtime {

Wakeup::Wakeup() : descriptor_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Wakeup::~Wakeup() {
  ::close(descriptor_);
}

void Wakeup::signal() {
  const std::uint64_t one = 1;
  // Full means signalled already.
  [[maybe_unused]] const ssize_t written = ::write(descriptor_, &one, sizeof one);
}

void Wakeup::wait(std::span<pollfd> others, Duration at_most) {
  pollfd all[kMaxOthers + 1];
  const std::size_t n = std::min(others.size(), kMaxOthers);
  all[0] = {descriptor_, POLLIN, 0};
  std::copy_n(others.begin(), n, all + 1);
  timespec timeout{};
  const auto clipped = std::max(at_most, Duration::zero());
  timeout.tv_sec = clipped / std::chrono::seconds(1);
  timeout.tv_nsec = (clipped % std::chrono::seconds(1)).count();
  ::ppoll(all, static_cast<nfds_t>(n + 1), &timeout, nullptr);
  std::copy_n(all + 1, n, others.begin());
  if ((all[0].revents & POLLIN) != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t taken = ::read(descriptor_, &count, sizeof count);
  }
}

}  // namespace penstock::runtime
