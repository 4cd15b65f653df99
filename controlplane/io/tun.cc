#include "controlplane/io/tun.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace penstock::io {

std::optional<Tun> Tun::open(const std::string& name, std::string& error) {
  if (name.empty() || name.size() >= IFNAMSIZ || name.find_first_of("/ %") != std::string::npos) {
    error = "not a name for a network device";
    return std::nullopt;
  }
  Tun tun;
  tun.fd_ = Descriptor(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tun.fd_.valid()) {
    error = std::string("/dev/net/tun: ") + std::strerror(errno);
    return std::nullopt;
  }
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (::ioctl(tun.fd_.get(), TUNSETIFF, &request) < 0) {
    error = errno == EBUSY ? "the device " + name + " is in use by another process"
                           : "cannot make the device " + name + ": " + std::strerror(errno);
    return std::nullopt;
  }
  tun.name_ = request.ifr_name;
  tun.index_ = static_cast<int>(::if_nametoindex(request.ifr_name));
  return tun;
}

Bytes Tun::read(MutableBytes buffer) {
  for (;;) {
    const auto n = ::read(fd_.get(), buffer.data(), buffer.size());
    if (n > 0) return Bytes{buffer.data(), static_cast<std::size_t>(n)};
    if (n < 0 && errno == EINTR) continue;
    return {};
  }
}

Tun::Write Tun::write(Bytes packet) {
  for (;;) {
    const auto n = ::write(fd_.get(), packet.data(), packet.size());
    if (n >= 0) return Write::sent;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? Write::full : Write::refused;
  }
}

}  // namespace penstock::io
