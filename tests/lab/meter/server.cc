// The meter's server: notes what comes up, sends down as fast as it is asked to, serves the download.
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <vector>

#include "tests/lab/meter/clock.h"
#include "tests/lab/meter/meter.h"
#include "tests/lab/meter/packet.h"
#include "tests/lab/meter/record.h"
#include "tests/lab/meter/signals.h"

namespace penstock::meter {
namespace {

int listen_on(const std::string& address, int port, int type) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = type;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  const int fd = socket(found->ai_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool good =
      bind(fd, found->ai_addr, found->ai_addrlen) == 0 && (type != SOCK_STREAM || listen(fd, 8) == 0);
  freeaddrinfo(found);
  return good ? fd : -1;
}

// One download: `rate` bytes a second, what could not be sent is made up for.
class Upload {
 public:
  Upload(int fd, std::int64_t now) : fd_(fd), start_(now) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  [[nodiscard]] int fd() const { return fd_; }
  // False: over.
  bool write(std::int64_t rate, std::int64_t now) {
    const auto due = static_cast<std::uint64_t>((now - start_) / 1000 * rate / 1'000'000);
    std::uint8_t buffer[8192];
    while (bytes_ < due) {
      const std::size_t size = std::min<std::uint64_t>(sizeof buffer, due - bytes_);
      for (std::size_t i = 0; i < size; ++i) buffer[i] = content(bytes_ + i);
      const ssize_t sent = send(fd_, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      bytes_ += static_cast<std::uint64_t>(sent);
    }
    return true;
  }

 private:
  int fd_;
  std::int64_t start_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

int run_server(const Options& options) {
  catch_signals();

  RecordFile sent(options.directory + "/down.sent"), received(options.directory + "/up.received");
  std::vector<pollfd> sockets;  // UDP and TCP in turn, for each address
  bool good = sent.ok() && received.ok();
  for (const std::string& address : options.binds)
    for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
      sockets.push_back({listen_on(address, options.port, type), POLLIN, 0});
      good = good && sockets.back().fd >= 0;
    }
  if (!good) {
    std::perror("meter");
    return 1;
  }

  sockaddr_storage peer{};
  socklen_t peer_length = 0;
  int peer_socket = -1;
  std::vector<std::uint8_t> packet(options.size);
  std::vector<Upload> uploads;
  Pace pace(0, 1), download(monotonic(), 100);
  std::uint32_t sequence = 0;
  bool was_paused = false;
  while (stopped == 0) {
    std::int64_t now = monotonic();
    const bool sending = peer_length != 0 && paused == 0;
    if (was_paused && paused == 0) pace.resume(now);
    was_paused = paused != 0;
    for (; sending && pace.due(now); pace.tick()) {
      const std::int64_t at = wall();
      const Header header{Header::kMagic, sequence, at, 0, 0};
      std::memcpy(packet.data(), &header, sizeof header);
      const ssize_t status =
          sendto(peer_socket, packet.data(), packet.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&peer),
                 peer_length);
      sent.add({sequence++, static_cast<std::uint32_t>(status < 0 ? errno : 0), at, at});
    }
    if (download.due(now)) {
      while (download.due(now)) download.tick();
      if (paused == 0)
        std::erase_if(uploads, [&](Upload& upload) {
          const bool over = !upload.write(options.download, now);
          if (over) close(upload.fd());
          return over;
        });
    }
    wait(sockets.data(), sockets.size(), sending ? std::min(pace.next(), download.next()) : download.next());
    for (std::size_t i = 0; i < sockets.size(); i += 2) {
      std::uint8_t buffer[2048];
      for (;;) {
        sockaddr_storage from{};
        socklen_t length = sizeof from;
        const ssize_t got =
            recvfrom(sockets[i].fd, buffer, sizeof buffer, MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &length);
        if (got < 0) break;
        const auto header = parse({buffer, static_cast<std::size_t>(got)});
        if (!header) continue;
        received.add({header->sequence, 0, header->sent, wall()});
        if (peer_length == 0) pace = Pace(monotonic(), header->rate == 0 ? 1 : header->rate);
        peer = from;
        peer_length = length;
        peer_socket = sockets[i].fd;
      }
      const int accepted = accept4(sockets[i + 1].fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (accepted >= 0) uploads.emplace_back(accepted, monotonic());
    }
  }
  sent.flush();
  received.flush();
  if (!sent.ok() || !received.ok()) {
    std::fprintf(stderr, "meter: records could not be written\n");
    return 1;
  }
  std::printf("{\"sent\": %u}\n", sequence);
  return 0;
}

}  // namespace penstock::meter
