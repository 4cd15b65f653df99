#include "controlplane/io/udp_socket.h"

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "controlplane/io/socket_address.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::io {

namespace {

constexpr std::size_t kCoalesced = 65536;  // the most that one message can hold
// Between buffers, so that their beginnings do not all fall into the same lines of the cache.
constexpr std::size_t kSkew = 23 * 64;
constexpr std::size_t kMaxSegments = 64;  // UDP_MAX_SEGMENTS of older kernels
constexpr std::size_t kMaxRunBytes = 65000;
constexpr std::size_t kMaxVectors = 1024;  // UIO_MAXIOV
// After much came in one call the next takes fewer messages: everything else waits meanwhile.
constexpr std::size_t kMuch = 256 * 1024;
constexpr std::size_t kFewMessages = 8;
constexpr std::size_t kErrors = 32;         // per call
constexpr std::size_t kQuotation = 128;     // of them; a relay's envelope and a message's header are less
constexpr std::size_t kErrorControl = 256;  // sock_extended_err, the offender's address, and IP_PKTINFO
constexpr std::uint8_t kFragmentationNeeded = 4;  // ICMP code of an unreachable destination (RFC 1191)
constexpr int kForOthers = 3;               // calls that may fail for an ICMP error about something else

}  // namespace

struct UdpSocket::Buffers {
  struct Control {
    alignas(cmsghdr) std::uint8_t bytes[128];
  };
  explicit Buffers(std::size_t room)
      : stride(room + kSkew), size(room), memory(std::make_unique_for_overwrite<std::uint8_t[]>(kBatch * stride)) {}

  std::size_t stride;
  std::size_t size;
  std::size_t messages = kBatch;  // to ask for next time
  std::unique_ptr<std::uint8_t[]> memory;
  std::array<sockaddr_storage, kBatch> names{};
  std::array<iovec, kBatch> vectors{};
  std::array<mmsghdr, kBatch> headers{};
  std::array<Control, kBatch> controls{};
  std::vector<ReceivedDatagram> received;

  // sending
  std::array<SocketAddress, kBatch> to{};
  std::array<mmsghdr, kBatch> out{};
  std::array<std::size_t, kBatch> runs{};
  std::array<iovec, kMaxVectors> pieces{};
  std::array<Control, kBatch> sizes{};

  // errors
  struct Report {
    std::array<std::uint8_t, kQuotation> bytes;
    alignas(cmsghdr) std::array<std::uint8_t, kErrorControl> control;
    sockaddr_storage to;
  };
  std::unique_ptr<std::array<Report, kErrors>> reports;
  std::vector<IcmpErrorReport> errors;
};

namespace {

bool set_int(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) == 0;
}

// The address a datagram was sent to, and the device it came by. Returns the size of the datagrams that the kernel put
// together; 0: it is one.
std::size_t read_control(const msghdr& header, ReceivedDatagram& out) {
  std::size_t segment = 0;
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
    if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
      int size = 0;
      std::memcpy(&size, CMSG_DATA(control), sizeof size);
      if (size > 0) segment = static_cast<std::size_t>(size);
    }
  }
  return segment;
}

// What the error says; nullopt: no ICMP.
std::optional<IcmpErrorReport::Kind> kind_of(const msghdr& header) {
  using Kind = IcmpErrorReport::Kind;
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr;
       control = CMSG_NXTHDR(const_cast<msghdr*>(&header), control)) {
    const bool four = control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_RECVERR;
    const bool six = control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_RECVERR;
    if (!four && !six) continue;
    sock_extended_err error{};
    std::memcpy(&error, CMSG_DATA(control), sizeof error);
    if (error.ee_origin == SO_EE_ORIGIN_ICMP) {
      if (error.ee_type == icmp4::unreachable)
        return error.ee_code == kFragmentationNeeded ? Kind::too_big : Kind::unreachable;
      return error.ee_type == icmp4::time_exceeded ? Kind::unreachable : Kind::other;
    }
    if (error.ee_origin == SO_EE_ORIGIN_ICMP6) {
      if (error.ee_type == icmp6::packet_too_big) return Kind::too_big;
      return error.ee_type == icmp6::unreachable || error.ee_type == icmp6::time_exceeded ? Kind::unreachable
                                                                                          : Kind::other;
    }
  }
  return std::nullopt;
}

// A send may fail with an ICMP error about an earlier datagram, without anything of its own having been sent; or for one
// of these reasons itself. Which of them it is shows when it is tried again.
bool may_be_for_others() {
  switch (errno) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENONET:
    case ENOPROTOOPT:
    case EPROTO:
    case EACCES:
    case EOPNOTSUPP:
    case EMSGSIZE:
      return true;
    default:
      return false;
  }
}

}  // namespace

UdpSocket::UdpSocket() = default;
UdpSocket::UdpSocket(UdpSocket&&) noexcept = default;
UdpSocket& UdpSocket::operator=(UdpSocket&&) noexcept = default;
UdpSocket::~UdpSocket() = default;

std::optional<UdpSocket> UdpSocket::open(const UdpSocketOptions& options, std::string& error) {
  UdpSocket out;
  const int family = options.v6 ? AF_INET6 : AF_INET;
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
  if (options.errors)
    out.reports_errors_ =
        options.v6 ? set_int(fd, IPPROTO_IPV6, IPV6_RECVERR, 1) : set_int(fd, IPPROTO_IP, IP_RECVERR, 1);
  IpAddress bind = options.bind;
  if (bind.is_unspecified() && !options.v6) bind = IpAddress::v4(0U);
  const SocketAddress address({bind, options.port});
  if (::bind(fd, address.get(), address.size()) != 0) return fail("bind");
  SocketAddress bound;
  if (::getsockname(fd, bound.storage(), bound.storage_size()) != 0) return fail("getsockname");
  out.local_ = bound.endpoint();
  if (options.offload) {
    // Size 0 changes nothing; a kernel without the option refuses it.
    out.segments_ = set_int(fd, SOL_UDP, UDP_SEGMENT, 0);
    out.coalesces_ = set_int(fd, SOL_UDP, UDP_GRO, 1);
  }
  out.buffers_ = std::make_unique<Buffers>(out.coalesces_ ? kCoalesced : kMaxDatagram);
  if (out.reports_errors_)
    out.buffers_->reports = std::make_unique<std::array<Buffers::Report, kErrors>>();
  return out;
}

std::span<ReceivedDatagram> UdpSocket::receive() {
  Buffers& b = *buffers_;
  for (std::size_t i = 0; i < b.messages; ++i) {
    b.vectors[i] = {b.memory.get() + i * b.stride, b.size};
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
    n = ::recvmmsg(fd_.get(), b.headers.data(), static_cast<unsigned>(b.messages), MSG_DONTWAIT, nullptr);
    if (n >= 0 || errno == EAGAIN || errno == EWOULDBLOCK) break;
    if (errno != EINTR) ++stats_.receive_errors;
  }
  b.messages = kBatch;
  b.received.clear();
  if (n <= 0) return {};
  std::size_t total = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    const msghdr& header = b.headers[i].msg_hdr;
    if ((header.msg_flags & MSG_TRUNC) != 0) {
      ++stats_.truncated;
      continue;
    }
    ReceivedDatagram out;
    MutableBytes bytes{b.memory.get() + i * b.stride, b.headers[i].msg_len};
    out.from = endpoint_of(b.names[i]);
    out.to = {{}, local_.port};
    const std::size_t segment = read_control(header, out);
    total += bytes.size();
    if (segment != 0 && segment < bytes.size()) stats_.received_in_runs += (bytes.size() + segment - 1) / segment;
    while (segment != 0 && bytes.size() > segment) {
      out.bytes = bytes.first(segment);
      b.received.push_back(out);
      bytes = bytes.subspan(segment);
    }
    out.bytes = bytes;
    b.received.push_back(out);
  }
  if (total > kMuch) b.messages = kFewMessages;
  stats_.received += b.received.size();
  return b.received;
}

std::span<IcmpErrorReport> UdpSocket::errors() {
  Buffers& b = *buffers_;
  b.errors.clear();
  if (!reports_errors_) return {};
  for (std::size_t i = 0; i < kErrors; ++i) {
    Buffers::Report& report = (*b.reports)[b.errors.size()];
    iovec vector{report.bytes.data(), report.bytes.size()};
    msghdr header{};
    header.msg_name = &report.to;
    header.msg_namelen = sizeof report.to;
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = report.control.data();
    header.msg_controllen = report.control.size();
    const ssize_t got = ::recvmsg(fd_.get(), &header, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) break;
    const auto kind = kind_of(header);
    if (!kind) continue;  // our own kernel's word about a datagram that is too long (EMSGSIZE); the caller knows it
    b.errors.push_back({Bytes{report.bytes}.first(static_cast<std::size_t>(got)), endpoint_of(report.to), *kind});
  }
  stats_.icmp_errors += b.errors.size();
  return b.errors;
}

std::size_t segmentable_run(std::span<const DatagramToSend> datagrams) {
  if (datagrams.empty()) return 0;
  const DatagramToSend& first = datagrams.front();
  std::size_t bytes = first.bytes.size();
  std::size_t run = 1;
  while (bytes != 0 && run < datagrams.size() && run < kMaxSegments) {
    const DatagramToSend& next = datagrams[run];
    if (next.bytes.empty() || next.bytes.size() > first.bytes.size() || bytes + next.bytes.size() > kMaxRunBytes ||
        next.to != first.to)
      break;
    bytes += next.bytes.size();
    ++run;
    if (next.bytes.size() < first.bytes.size()) break;
  }
  return run;
}

std::size_t UdpSocket::send(std::span<const DatagramToSend> datagrams) {
  std::size_t done = 0;
  while (done < datagrams.size())
    if (send_some(datagrams, done) == Sent::full) break;
  return done;
}

UdpSocket::Sent UdpSocket::send_some(std::span<const DatagramToSend> datagrams, std::size_t& done) {
  Buffers& b = *buffers_;
  std::size_t messages = 0;
  std::size_t vectors = 0;
  for (std::size_t at = done; at < datagrams.size() && messages < kBatch; ++messages) {
    const std::size_t run = segments_ ? segmentable_run(datagrams.subspan(at)) : 1;
    if (vectors + run > kMaxVectors) break;
    b.to[messages] = SocketAddress(datagrams[at].to);
    b.runs[messages] = run;
    b.out[messages] = {};
    msghdr& header = b.out[messages].msg_hdr;
    header.msg_name = b.to[messages].storage();
    header.msg_namelen = b.to[messages].size();
    header.msg_iov = &b.pieces[vectors];
    header.msg_iovlen = run;
    if (run > 1) {
      header.msg_control = b.sizes[messages].bytes;
      header.msg_controllen = CMSG_SPACE(sizeof(std::uint16_t));
      cmsghdr* control = CMSG_FIRSTHDR(&header);
      control->cmsg_level = SOL_UDP;
      control->cmsg_type = UDP_SEGMENT;
      control->cmsg_len = CMSG_LEN(sizeof(std::uint16_t));
      const auto size = static_cast<std::uint16_t>(datagrams[at].bytes.size());
      std::memcpy(CMSG_DATA(control), &size, sizeof size);
    }
    for (std::size_t i = 0; i < run; ++i, ++at)
      b.pieces[vectors++] = {const_cast<std::uint8_t*>(datagrams[at].bytes.data()), datagrams[at].bytes.size()};
  }
  const auto call = [&](mmsghdr* from, std::size_t count) {
    int n = -1;
    for (int tries = 0; tries <= (reports_errors_ ? kForOthers : 0); ++tries) {
      n = ::sendmmsg(fd_.get(), from, static_cast<unsigned>(count), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n >= 0 || !may_be_for_others()) break;
    }
    return n;
  };
  const auto no_room = [] {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM;
  };
  const int n = call(b.out.data(), messages);
  if (n > 0) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      done += b.runs[i];
      stats_.sent += b.runs[i];
      if (b.runs[i] > 1) stats_.sent_in_runs += b.runs[i];
    }
    return Sent::all;
  }
  if (n < 0 && errno == EINTR) return Sent::all;
  if (n < 0 && no_room()) return Sent::full;
  // The first message is the one refused. Its datagrams are tried once more, each by itself, and skipped where they are
  // refused again.
  const std::size_t run = b.runs[0];
  if (run > 1) {
    ++stats_.refused_runs;
    if (errno == EIO || (errno == EINVAL && stats_.sent_in_runs == 0)) segments_ = false;
  }
  for (std::size_t i = 0; i < run; ++i) {
    mmsghdr one{};
    one.msg_hdr.msg_name = b.to[0].storage();
    one.msg_hdr.msg_namelen = b.to[0].size();
    one.msg_hdr.msg_iov = &b.pieces[i];
    one.msg_hdr.msg_iovlen = 1;
    int sent = call(&one, 1);
    while (sent < 0 && errno == EINTR) sent = call(&one, 1);
    if (sent < 0 && no_room()) return Sent::full;
    ++(sent == 1 ? stats_.sent : stats_.send_errors);
    ++done;
  }
  return Sent::all;
}

}  // namespace penstock::io
