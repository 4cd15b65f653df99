#include "controlplane/io/dns_upstream.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "controlplane/io/socket_address.h"

namespace penstock::io {

DnsUpstream::DnsUpstream(Loop& loop, std::uint32_t mark, Callbacks callbacks)
    : loop_(loop), mark_(mark), callbacks_(std::move(callbacks)) {}

DnsUpstream::~DnsUpstream() {
  *alive_ = false;
}

void DnsUpstream::send(const dns::UpstreamSend& request) {
  const std::uint64_t id = request.exchange;
  auto exchange = std::make_unique<Exchange>();
  if (!start(*exchange, request)) {
    // Reported later: the resolver is in the middle of giving us this.
    loop_.post([this, id, alive = alive_] {
      if (*alive) callbacks_.failed(id);
    });
    return;
  }
  const bool tcp = exchange->tcp;
  exchange->source = loop_.add_fd(exchange->fd.get(), tcp ? EPOLLOUT : EPOLLIN,
                                  [this, id](std::uint32_t events) { ready(id, events); });
  exchanges_[id] = std::move(exchange);
}

bool DnsUpstream::start(Exchange& exchange, const dns::UpstreamSend& request) {
  exchange.upstream = request.upstream;
  exchange.tcp = request.transport == dns::Transport::tcp;
  const int type = exchange.tcp ? SOCK_STREAM : SOCK_DGRAM;
  exchange.fd = Descriptor(
      ::socket(request.upstream.address.is_v4() ? AF_INET : AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = exchange.fd.get();
  if (fd < 0) return false;
  if (mark_ != 0 && ::setsockopt(fd, SOL_SOCKET, SO_MARK, &mark_, sizeof mark_) != 0) return false;
  const SocketAddress address(request.upstream);
  if (::connect(fd, address.get(), address.size()) != 0 && errno != EINPROGRESS) return false;
  if (!exchange.tcp) return ::send(fd, request.message.data(), request.message.size(), MSG_NOSIGNAL) >= 0;
  const std::size_t size = request.message.size();
  if (size > 65535) return false;
  exchange.out = {static_cast<std::uint8_t>(size >> 8), static_cast<std::uint8_t>(size)};
  exchange.out.insert(exchange.out.end(), request.message.begin(), request.message.end());
  return true;
}

void DnsUpstream::ready(std::uint64_t id, std::uint32_t events) {
  const auto found = exchanges_.find(id);
  if (found == exchanges_.end()) return;
  Exchange& exchange = *found->second;
  if (exchange.tcp) return ready_tcp(id, exchange, events);
  ready_udp(id, exchange);
}

void DnsUpstream::fail(std::uint64_t id) {
  exchanges_.erase(id);
  callbacks_.failed(id);
}

void DnsUpstream::ready_udp(std::uint64_t id, Exchange& exchange) {
  std::uint8_t buffer[65535];
  const auto n = ::recv(exchange.fd.get(), buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n < 0) return fail(id);
  // The resolver closes the exchange when it takes this for the answer, else waits for another datagram.
  callbacks_.received(id, exchange.upstream, Bytes{buffer, static_cast<std::size_t>(n)});
}

void DnsUpstream::ready_tcp(std::uint64_t id, Exchange& exchange, std::uint32_t events) {
  if ((events & (EPOLLERR | EPOLLHUP)) != 0 && (events & EPOLLIN) == 0) return fail(id);
  while (!exchange.out.empty()) {
    const auto n = ::send(exchange.fd.get(), exchange.out.data(), exchange.out.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return fail(id);
    exchange.out.erase(exchange.out.begin(), exchange.out.begin() + n);
    if (exchange.out.empty()) exchange.source.set_events(EPOLLIN);
  }
  if ((events & EPOLLIN) == 0) return;
  std::uint8_t buffer[16384];
  const auto n = ::recv(exchange.fd.get(), buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return fail(id);
  exchange.in.insert(exchange.in.end(), buffer, buffer + n);
  if (exchange.in.size() < 2) return;
  const std::size_t size = std::size_t{exchange.in[0]} << 8 | exchange.in[1];
  if (exchange.in.size() < 2 + size) return;
  const std::vector<std::uint8_t> message(exchange.in.begin() + 2,
                                          exchange.in.begin() + static_cast<std::ptrdiff_t>(2 + size));
  const Endpoint upstream = exchange.upstream;
  exchange.source.set_events(0);
  callbacks_.received(id, upstream, message);
}

}  // namespace penstock::io
