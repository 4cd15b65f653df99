#include "dataplane/io/kernel_tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace penstock::io {
namespace {

std::string failure(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

}  // namespace

std::variant<std::unique_ptr<KernelTap>, std::string> KernelTap::open(const std::string& name) {
  const int fd = ::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return failure("/dev/net/tun cannot be opened");
  std::unique_ptr<KernelTap> tap(new KernelTap(fd));
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (::ioctl(fd, TUNSETIFF, &request) != 0) return failure("the TAP device cannot be made");
  const int control = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) return failure("no socket");
  bool good = ::ioctl(control, SIOCGIFHWADDR, &request) == 0;
  std::copy_n(reinterpret_cast<const std::uint8_t*>(request.ifr_hwaddr.sa_data), tap->mac_.size(), tap->mac_.begin());
  good = good && ::ioctl(control, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  good = good && ::ioctl(control, SIOCSIFFLAGS, &request) == 0;
  const int saved = errno;
  ::close(control);
  errno = saved;
  if (!good) return failure("the TAP device cannot be brought up");
  return tap;
}

KernelTap::~KernelTap() {
  ::close(descriptor_);
}

Packet* KernelTap::receive(runtime::PacketPool& pool) {
  Packet* packet = pool.allocate();
  if (packet == nullptr) return nullptr;
  // One byte more than fits: a frame that fills it was cut and is no use.
  const std::size_t room = std::size_t{packet->tailroom} - kMinTailroom;
  const ssize_t n = ::read(descriptor_, packet->data, room);
  if (n <= 0 || static_cast<std::size_t>(n) == room || !packet->append(static_cast<std::uint16_t>(n))) {
    pool.release(std::span<Packet* const>(&packet, 1));
    return nullptr;
  }
  return packet;
}

bool KernelTap::send(const Packet& frame) {
  for (;;) {
    const ssize_t n = ::write(descriptor_, frame.data, frame.length);
    if (n >= 0) return true;
    if (errno != EINTR) return false;  // trap: io-6 — full or down now, perhaps not next time
  }
}

}  // namespace penstock::io
