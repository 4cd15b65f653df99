#include "dataplane/runtime/wakeup.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
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
  for (std::size_t i = 0; i < n; ++i)
    if ((failing_ >> i & 1U) != 0) all[i + 1].fd = -1;
  if (failing_ != 0) at_most = std::min(at_most, kErrorPause);
  timespec timeout{};
  const auto clipped = std::max(at_most, Duration::zero());
  timeout.tv_sec = clipped / std::chrono::seconds(1);
  timeout.tv_nsec = (clipped % std::chrono::seconds(1)).count();
  ::ppoll(all, static_cast<nfds_t>(n + 1), &timeout, nullptr);
  failing_ = 0;
  for (std::size_t i = 0; i < n; ++i) {
    others[i].revents = all[i + 1].revents;
    constexpr int kErrors = POLLERR | POLLHUP | POLLNVAL;
    if ((others[i].revents & kErrors) == 0 || (others[i].revents & POLLIN) != 0) continue;
    failing_ |= std::uint32_t{1} << i;
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(others[i].fd, SOL_SOCKET, SO_ERROR, &error, &size);  // taken: it is not reported again
  }
  if ((all[0].revents & POLLIN) != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t taken = ::read(descriptor_, &count, sizeof count);
  }
}

}  // namespace penstock::runtime
