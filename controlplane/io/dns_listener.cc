#include "controlplane/io/dns_listener.h"

#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "controlplane/io/socket_address.h"

namespace penstock::io {
namespace {

constexpr int kBacklog = 128;

// An address can be bound exactly when it is this machine's.
bool is_ours(IpAddress address) {
  const Descriptor fd(::socket(address.is_v4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const SocketAddress name({address, 0});
  return fd.valid() && ::bind(fd.get(), name.get(), name.size()) == 0;
}

std::string failure(const Endpoint& endpoint, const char* what) {
  return endpoint.to_string() + ": " + what + ": " + std::strerror(errno);
}

Descriptor listen_on(const Endpoint& endpoint, std::string& error) {
  Descriptor fd(::socket(endpoint.address.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  const SocketAddress address(endpoint);
  if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(fd.get(), address.get(), address.size()) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    error = failure(endpoint, "TCP");
    fd.reset();
  }
  return fd;
}

}  // namespace

DnsListener::DnsListener(Loop& loop, QueryHandler handler)
    : loop_(loop), handler_(std::move(handler)), idle_timer_(loop.add_timer([this] { close_idle(); })) {}

DnsListener::~DnsListener() = default;

std::vector<std::string> DnsListener::open(const DnsListenerConfig& config) {
  config_ = config;
  loopback_ = static_cast<int>(::if_nametoindex("lo"));
  std::vector<std::string> failures;
  udp_.clear();
  tcp_.clear();
  for (const IpAddress& address : config.addresses) {
    const Endpoint endpoint{address, config.port};
    std::string error;
    UdpSocketOptions options;
    options.v6 = address.is_v6();
    options.bind = address;
    options.port = config.port;
    options.dont_fragment = false;
    options.buffer_bytes = 1 << 20;
    if (auto socket = UdpSocket::open(options, error)) {
      const std::size_t index = udp_.size();
      udp_.push_back(std::make_unique<Udp>(Udp{std::move(*socket), {}}));
      udp_[index]->source =
          loop_.add_fd(udp_[index]->socket.fd(), EPOLLIN, [this, index](std::uint32_t) { receive_udp(index); });
    } else {
      failures.push_back(endpoint.to_string() + ": UDP " + error);
    }
    Descriptor fd = listen_on(endpoint, error);
    if (!fd.valid()) {
      failures.push_back(error);
      continue;
    }
    const std::size_t index = tcp_.size();
    tcp_.push_back(std::make_unique<Listening>(Listening{std::move(fd), {}, endpoint}));
    tcp_[index]->source = loop_.add_fd(tcp_[index]->fd.get(), EPOLLIN, [this, index](std::uint32_t) { accept(index); });
  }
  return failures;
}

void DnsListener::receive_udp(std::size_t index) {
  UdpSocket& socket = udp_[index]->socket;
  for (const ReceivedDatagram& datagram : socket.receive()) {
    if (datagram.device != config_.device && datagram.device != loopback_) continue;
    dns::Client client;
    client.transport = dns::Transport::udp;
    client.connection = index;
    client.remote = datagram.from;
    client.local = socket.local();
    const Bytes answer = handler_(datagram.bytes, client);
    if (answer.empty()) continue;
    const DatagramToSend out{answer, datagram.from};
    socket.send({&out, 1});  // a full socket loses the answer; the client asks again
  }
}

void DnsListener::answer(const dns::Answer& answer) {
  const Bytes message{answer.message};
  if (answer.to.transport == dns::Transport::udp) {
    if (answer.to.connection >= udp_.size()) return;
    const DatagramToSend out{message, answer.to.remote};
    udp_[answer.to.connection]->socket.send({&out, 1});
    return;
  }
  const auto found = connections_.find(answer.to.connection);
  if (found == connections_.end()) return;  // gave up waiting
  Connection& connection = *found->second;
  connection.session.answer(message, Loop::now().monotonic);
  run_queries(connection);
  write(found->first, connection);
}

void DnsListener::accept(std::size_t index) {
  for (;;) {
    SocketAddress remote;
    Descriptor fd(
        ::accept4(tcp_[index]->fd.get(), remote.storage(), remote.storage_size(), SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    if (!is_ours(remote.endpoint().address)) continue;
    if (connections_.size() >= config_.max_connections) {
      const auto oldest = std::min_element(connections_.begin(), connections_.end(), [](const auto& a, const auto& b) {
        return a.second->session.idle_deadline() < b.second->session.idle_deadline();
      });
      connections_.erase(oldest);
    }
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const std::uint64_t id = next_connection_++;
    auto connection = std::make_unique<Connection>(Loop::now().monotonic);
    connection->client.transport = dns::Transport::tcp;
    connection->client.connection = id;
    connection->client.remote = remote.endpoint();
    connection->client.local = tcp_[index]->local;
    connection->fd = std::move(fd);
    connection->source =
        loop_.add_fd(connection->fd.get(), EPOLLIN, [this, id](std::uint32_t events) { serve(id, events); });
    connections_[id] = std::move(connection);
    arm_idle_timer();
  }
}

void DnsListener::serve(std::uint64_t id, std::uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = *found->second;
  if ((events & EPOLLIN) != 0 && connection.session.wants_read() && !connection.ended) {
    std::uint8_t buffer[16384];
    const auto n = ::recv(connection.fd.get(), buffer, sizeof buffer, 0);
    if (n > 0) {
      connection.session.push(Bytes{buffer, static_cast<std::size_t>(n)}, Loop::now().monotonic);
      run_queries(connection);
    } else if (n == 0) {
      connection.ended = true;
    } else if (errno != EAGAIN && errno != EINTR) {
      connections_.erase(found);
      return;
    }
  } else if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    connections_.erase(found);
    return;
  }
  write(id, connection);
}

void DnsListener::run_queries(Connection& connection) {
  while (const auto query = connection.session.next_query()) {
    // The handler may call back into answer() for other clients, never for this query.
    const Bytes answer = handler_(Bytes{*query}, connection.client);
    if (!answer.empty()) connection.session.answer(answer, Loop::now().monotonic);
  }
}

bool DnsListener::write(std::uint64_t id, Connection& connection) {
  while (!connection.session.unwritten().empty()) {
    const Bytes bytes = connection.session.unwritten();
    const auto n = ::send(connection.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == ENOBUFS)) break;
    if (n < 0) {
      connections_.erase(id);
      return false;
    }
    connection.session.written(static_cast<std::size_t>(n), Loop::now().monotonic);
  }
  const bool unwritten = !connection.session.unwritten().empty();
  if (connection.ended && !unwritten && connection.session.outstanding() == 0) {
    connections_.erase(id);
    return false;
  }
  std::uint32_t events = 0;
  if (connection.session.wants_read() && !connection.ended) events |= EPOLLIN;
  if (unwritten) events |= EPOLLOUT;
  connection.source.set_events(events);
  return true;
}

void DnsListener::arm_idle_timer() {
  Instant at = kNever;
  for (const auto& [id, connection] : connections_) at = std::min(at, connection->session.idle_deadline());
  idle_timer_.set(at);
}

void DnsListener::close_idle() {
  const Instant now = Loop::now().monotonic;
  std::erase_if(connections_, [now](const auto& entry) { return entry.second->session.idle_deadline() <= now; });
  arm_idle_timer();
}

}  // namespace penstock::io
