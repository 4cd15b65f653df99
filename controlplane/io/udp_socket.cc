#include "controlplane/io/udp_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "controlplane/io/socket_address.h"

namespace penstock::io {

struct UdpSocket::Buffers {
  struct Control {
    alignas(cmsghdr) std::uint8_t bytes[64];
  };
  std::vector<std::uint8_t> memory = std::vector<std::uint8_t>(kBatch * kMaxDatagram);
  std::array<sockaddr_storage, kBatch> names{};
  std::array<iovec, kBatch> vectors{};
  std::array<mmsghdr, kBatch> headers{};
  std::array<Control, kBatch> controls{};
  std::array<ReceivedDatagram, kBatch> received{};
};

namespace {

bool set_int(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

// The address a datagram was sent to, and the device it came by.
void read_packet_info(const msghdr& header, ReceivedDatagram& out) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr;
       control = CMSG_NXTHDR(const_cast<msghdr*>(&header), control)) {
    if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      in_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(control), sizeof info);
      out.to.address = IpAddress::from_wire(Bytes{reinterpret_cast<const std::uint8_t*>(&info.ipi_addr), 4});
      out.device = info.ipi_ifindex;
    }
    if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info{};
      std::memcpy(&info, CMSG_DATA(control), sizeof info);
      out.to.address = IpAddress::from_wire(Bytes{reinterpret_cast<const std::uint8_t*>(&info.ipi6_addr), 16});
      out.device = static_cast<int>(info.ipi6_ifindex);
    }
  }
}

}  // namespace

UdpSocket::UdpSocket() : buffers_(std::make_unique<Buffers>()) {}
UdpSocket::UdpSocket(UdpSocket&&) noexcept = default;
UdpSocket& UdpSocket::operator=(UdpSocket&&) noexcept = default;
UdpSocket::~UdpSocket() = default;

std::optional<UdpSocket> UdpSocket::open(const UdpSocketOptions& options, std::string& error) {
  UdpSocket out;
  const int family = options.v6 ? AF_INET6 : AF_INET;
  out.v6_ = options.v6;
  out.fd_ = Descriptor(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = out.fd_.get();
  const auto fail = [&](const char* what) {
    error = std::string(what) + ": " + std::strerror(errno);
    return std::nullopt;
  };
  if (!out.fd_.valid()) return fail("UDP socket");
  if (options.v6 && !set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1)) return fail("IPV6_V6ONLY");
  if (options.mark != 0 && !set_int(fd, SOL_SOCKET, SO_MARK, static_cast<int>(options.mark))) return fail("SO_MARK");
  // Tuning: a smaller buffer or a kernel without the option is no reason not to start.
  if (!set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, options.buffer_bytes))
    set_int(fd, SOL_SOCKET, SO_RCVBUF, options.buffer_bytes);
  if (!set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, options.buffer_bytes))
    set_int(fd, SOL_SOCKET, SO_SNDBUF, options.buffer_bytes);
  if (options.v6) {
    set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    if (options.dont_fragment) set_int(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
  } else {
    set_int(fd, IPPROTO_IP, IP_PKTINFO, 1);
    if (options.dont_fragment) set_int(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
  }
  IpAddress bind = options.bind;
  if (bind.is_unspecified() && !options.v6) bind = IpAddress::v4(0U);
  const SocketAddress address({bind, options.port});
  if (::bind(fd, address.get(), address.size()) != 0) return fail("bind");
  SocketAddress bound;
  if (::getsockname(fd, bound.storage(), bound.storage_size()) != 0) return fail("getsockname");
  out.local_ = bound.endpoint();
  return out;
}

std::span<ReceivedDatagram> UdpSocket::receive() {
  Buffers& b = *buffers_;
  for (std::size_t i = 0; i < kBatch; ++i) {
    b.vectors[i] = {b.memory.data() + i * kMaxDatagram, kMaxDatagram};
    msghdr& header = b.headers[i].msg_hdr;
    header = {};
    header.msg_name = &b.names[i];
    header.msg_namelen = sizeof b.names[i];
    header.msg_iov = &b.vectors[i];
    header.msg_iovlen = 1;
    header.msg_control = b.controls[i].bytes;
    header.msg_controllen = sizeof b.controls[i].bytes;
  }
  int n = 0;
  // A queued ICMP error is reported once by the next call; it says nothing about the datagrams behind it.
  for (int tries = 0; tries < 16; ++tries) {
    n = ::recvmmsg(fd_.get(), b.headers.data(), kBatch, MSG_DONTWAIT, nullptr);
    if (n >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) break;
    if (errno != EINTR) ++stats_.receive_errors;
  }
  if (n <= 0) return {};
  std::size_t count = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    const msghdr& header = b.headers[i].msg_hdr;
    if ((header.msg_flags & MSG_TRUNC) != 0) {
      ++stats_.truncated;
      continue;
    }
    ReceivedDatagram& out = b.received[count++];
    out.bytes = {b.memory.data() + i * kMaxDatagram, b.headers[i].msg_len};
    out.from = endpoint_of(b.names[i]);
    out.to = {{}, local_.port};
    out.device = 0;
    read_packet_info(header, out);
  }
  stats_.received += count;
  return {b.received.data(), count};
}

std::size_t UdpSocket::send(std::span<const DatagramToSend> datagrams) {
  std::array<SocketAddress, kBatch> names;
  std::array<iovec, kBatch> vectors;
  std::array<mmsghdr, kBatch> headers;
  std::size_t done = 0;
  while (done < datagrams.size()) {
    const std::size_t batch = std::min(kBatch, datagrams.size() - done);
    for (std::size_t i = 0; i < batch; ++i) {
      const DatagramToSend& datagram = datagrams[done + i];
      names[i] = SocketAddress(datagram.to);
      vectors[i] = {const_cast<std::uint8_t*>(datagram.bytes.data()), datagram.bytes.size()};
      headers[i] = {};
      headers[i].msg_hdr.msg_name = names[i].storage();
      headers[i].msg_hdr.msg_namelen = names[i].size();
      headers[i].msg_hdr.msg_iov = &vectors[i];
      headers[i].msg_hdr.msg_iovlen = 1;
    }
    const int n = ::sendmmsg(fd_.get(), headers.data(), static_cast<unsigned>(batch), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      stats_.sent += static_cast<std::size_t>(n);
      done += static_cast<std::size_t>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM)) return done;
    // The first datagram of the batch is the one refused: skip it alone. (An ICMP error of an earlier one is reported
    // here too, as ECONNREFUSED or EHOSTUNREACH, without anything having been sent: that one is tried once more.)
    if (n < 0 && ::sendmmsg(fd_.get(), headers.data(), 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) {
      ++stats_.sent;
    } else {
      ++stats_.send_errors;
    }
    ++done;
  }
  return done;
}

}  // namespace penstock::io
