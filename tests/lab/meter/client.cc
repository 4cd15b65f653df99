// The meter's client: sends the upward flow, receives the downward one, reads the download.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
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

struct Target {
  sockaddr_storage address{};
  socklen_t length = 0;
};

bool resolve(const Options& options, Target& out) {
  addrinfo hints{};
  hints.ai_family = options.family;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found);
  if (error != 0) {
    std::fprintf(stderr, "meter: %s: %s\n", options.host.c_str(), gai_strerror(error));
    return false;
  }
  std::memcpy(&out.address, found->ai_addr, found->ai_addrlen);
  out.length = found->ai_addrlen;
  freeaddrinfo(found);
  return true;
}

int open_socket(const Target& target, int type) {
  const int fd = socket(target.address.ss_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fd;
  const int status = connect(fd, reinterpret_cast<const sockaddr*>(&target.address), target.length);
  if (status != 0 && errno != EINPROGRESS) {
    close(fd);
    return -1;
  }
  return fd;
}

// The download: its bytes are compared with what they must be.
struct Download {
  int fd = -1;
  std::uint64_t bytes = 0;
  bool wrong = false;
  int error = 0;        // errno that ended it
  bool closed = false;  // by the other end

  void read(RecordFile& log) {
    std::uint8_t buffer[16384];
    for (;;) {
      const ssize_t got = ::read(fd, buffer, sizeof buffer);
      if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN)) return;
      if (got <= 0) {
        error = got < 0 ? errno : 0;
        closed = got == 0;
        close(fd);
        fd = -1;
        return;
      }
      for (ssize_t i = 0; i < got; ++i)
        wrong = wrong || buffer[i] != content(bytes + static_cast<std::uint64_t>(i));
      bytes += static_cast<std::uint64_t>(got);
      const std::int64_t now = wall();
      log.add({static_cast<std::uint32_t>(got), 0, now, now});
    }
  }
};

void receive(int fd, RecordFile& log) {
  std::uint8_t buffer[2048];
  for (;;) {
    const ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0) return;  // nothing more, or an ICMP error that the next call gets over
    const auto header = parse({buffer, static_cast<std::size_t>(got)});
    if (header) log.add({header->sequence, 0, header->sent, wall()});
  }
}

}  // namespace

int run_client(const Options& options) {
  catch_signals();

  Target target;
  if (!resolve(options, target)) return 1;
  const int udp = open_socket(target, SOCK_DGRAM);
  Download download;
  if (options.download > 0) download.fd = open_socket(target, SOCK_STREAM);
  RecordFile sent(options.directory + "/up.sent"), received(options.directory + "/down.received"),
      read(options.directory + "/download");
  if (udp < 0 || (options.download > 0 && download.fd < 0) || !sent.ok() || !received.ok() || !read.ok()) {
    std::perror("meter");
    return 1;
  }

  std::vector<std::uint8_t> packet(options.size);
  const std::int64_t start = monotonic();
  std::int64_t end = options.seconds > 0 ? start + options.seconds * kSecond : INT64_MAX;
  Pace pace(start, options.rate);
  std::uint32_t sequence = 0;
  std::int64_t last_sent_wall = wall(), worst_delay = 0;
  bool sending = true, was_paused = false;
  std::uint64_t refused = 0;
  for (;;) {
    std::int64_t now = monotonic();
    if (sending && (stopped != 0 || now >= end)) {  // what is on its way is still waited for
      sending = false;
      end = now + options.linger * kSecond;
    }
    if (!sending && now >= end) break;
    if (was_paused && paused == 0) pace.resume(now);
    was_paused = paused != 0;
    if (sending && !was_paused) {
      worst_delay = std::max(worst_delay, now - pace.next());
      for (; pace.due(now); pace.tick()) {
        const std::int64_t at = wall();
        const Header header{Header::kMagic, sequence, at, static_cast<std::uint32_t>(options.rate), 0};
        std::memcpy(packet.data(), &header, sizeof header);
        const ssize_t status = send(udp, packet.data(), packet.size(), MSG_DONTWAIT);
        const int error = status < 0 ? errno : 0;
        refused += error != 0 ? 1 : 0;
        sent.add({sequence++, static_cast<std::uint32_t>(error), at, at});
        last_sent_wall = at;
      }
    }
    pollfd descriptors[2] = {{udp, POLLIN, 0}, {download.fd, POLLIN, 0}};
    const std::int64_t next = sending ? was_paused ? now + kSecond / 20 : std::min(end, pace.next()) : end;
    wait(descriptors, 2, next);
    receive(udp, received);
    if (download.fd >= 0 && descriptors[1].revents != 0) download.read(read);
  }
  sent.flush();
  received.flush();
  read.flush();
  if (!sent.ok() || !received.ok() || !read.ok()) {
    std::fprintf(stderr, "meter: records could not be written\n");
    return 1;
  }
  const auto number = [](auto value) { return static_cast<long long>(value); };
  const auto word = [](bool value) { return value ? "true" : "false"; };
  std::printf("{\"ip_version\": %d, \"sent\": %lld, \"refused\": %lld, \"last_sent\": %lld, \"worst_delay_ns\": %lld, ",
              target.address.ss_family == AF_INET ? 4 : 6, number(sequence), number(refused), number(last_sent_wall),
              number(worst_delay));
  std::printf("\"download_bytes\": %lld, \"download_wrong\": %s, \"download_error\": %d, \"download_closed\": %s}\n",
              number(download.bytes), word(download.wrong), download.error, word(download.closed));
  return 0;
}

}  // namespace penstock::meter
