#include "controlplane/io/tun.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace penstock::io {

namespace {

// Later than Debian's headers.
constexpr unsigned kUso4 = 0x20;
constexpr unsigned kUso6 = 0x40;
constexpr unsigned kTcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

}  // namespace

std::optional<Tun> Tun::open(const Options& options, std::string& error) {
  const std::string& name = options.name;
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
  unsigned features = 0;
  const int fd = tun.fd_.get();
  tun.header_ = options.offload && ::ioctl(fd, TUNGETFEATURES, &features) == 0 && (features & IFF_VNET_HDR) != 0;
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TUN | IFF_NO_PI | (tun.header_ ? IFF_VNET_HDR : 0));
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (::ioctl(fd, TUNSETIFF, &request) < 0) {
    error = errno == EBUSY ? "the device " + name + " is in use by another process"
                           : "cannot make the device " + name + ": " + std::strerror(errno);
    return std::nullopt;
  }
  if (tun.header_) {
    int size = static_cast<int>(offload::kVnetHeaderSize);
    const bool sized = ::ioctl(fd, TUNSETVNETHDRSZ, &size) == 0;
    tun.udp_ = sized && ::ioctl(fd, TUNSETOFFLOAD, kTcp | kUso4 | kUso6) == 0;
    tun.tcp_ = tun.udp_ || (sized && ::ioctl(fd, TUNSETOFFLOAD, kTcp) == 0);
  }
  tun.name_ = request.ifr_name;
  tun.index_ = static_cast<int>(::if_nametoindex(request.ifr_name));
  return tun;
}

Tun::Packet Tun::read(MutableBytes buffer) {
  const std::size_t header = header_ ? offload::kVnetHeaderSize : 0;
  for (;;) {
    const auto n = ::read(fd_.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 || static_cast<std::size_t>(n) <= header) return {};
    Packet out;
    out.bytes = Bytes{buffer}.subspan(header, static_cast<std::size_t>(n) - header);
    if (!header_) return out;
    std::array<std::uint8_t, offload::kVnetHeaderSize> bytes;
    std::memcpy(bytes.data(), buffer.data(), bytes.size());
    bool known = true;
    out.vnet = offload::VnetHeader::parse(bytes, known);
    if (known) return out;  // else of a kind that was not asked for: the kernel does not send it
  }
}

Tun::Write Tun::write(const offload::VnetHeader& vnet, std::span<const Bytes> pieces) {
  std::array<iovec, kMaxPieces + 1> vectors;
  std::size_t count = 0;
  auto header = vnet.wire();
  if (header_) vectors[count++] = {header.data(), header.size()};
  if (pieces.size() > kMaxPieces || (!header_ && !vnet.plain())) return Write::refused;
  for (const Bytes piece : pieces) vectors[count++] = {const_cast<std::uint8_t*>(piece.data()), piece.size()};
  for (;;) {
    const auto n = ::writev(fd_.get(), vectors.data(), static_cast<int>(count));
    if (n >= 0) return Write::sent;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? Write::full : Write::refused;
  }
}

}  // namespace penstock::io
