// lab_softwire: IPv4 in IPv6 (RFC 2473), one end of a tunnel: what DS-Lite's B4 and AFTR speak (RFC 6333) and the
// kernel here lacks. Packets that the host routes into the TUN device leave in IPv6 towards the other end, and the
// reverse.
//
//   lab_softwire --tun sw0 --local 2001:db8:0:1::30 --remote 2001:db8:0:1::60
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/lab/wire/tun.h"

namespace {

volatile std::sig_atomic_t stopped = 0;

bool parse(const std::string& text, sockaddr_in6& out) {
  out = {};
  out.sin6_family = AF_INET6;
  return inet_pton(AF_INET6, text.c_str(), &out.sin6_addr) == 1;
}

// Raw IPv6 sockets give what is behind the IPv6 header; only the other end's packets come, for it is connected to it.
int open_tunnel(const std::string& local, const std::string& remote) {
  sockaddr_in6 here{}, there{};
  if (!parse(local, here) || !parse(remote, there)) {
    errno = EINVAL;
    return -1;
  }
  const int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_IPIP);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
      connect(fd, reinterpret_cast<const sockaddr*>(&there), sizeof there) != 0)
    return -1;
  return fd;
}

void carry(int from, int to, const char* what) {
  static std::vector<unsigned char> buffer(65536);
  for (;;) {
    const ssize_t got = read(from, buffer.data(), buffer.size());
    if (got <= 0) return;
    if (buffer[0] >> 4 != 4) continue;
    if (write(to, buffer.data(), static_cast<std::size_t>(got)) < 0 && errno != EAGAIN && errno != ENOBUFS)
      std::perror(what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string device, local, remote;
  CLI::App app{"One end of an IPv4-in-IPv6 tunnel."};
  app.add_option("--tun", device, "TUN device, made by us")->required();
  app.add_option("--local", local, "our IPv6 address")->required();
  app.add_option("--remote", remote, "the other end's")->required();
  CLI11_PARSE(app, argc, argv);
  struct sigaction action{};
  action.sa_handler = [](int) { stopped = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  const int tun = penstock::wire::open_tun(device), tunnel = open_tunnel(local, remote);
  if (tun < 0 || tunnel < 0) {
    std::perror("softwire");
    return 1;
  }
  while (stopped == 0) {
    pollfd descriptors[2] = {{tun, POLLIN, 0}, {tunnel, POLLIN, 0}};
    if (poll(descriptors, 2, 1000) < 0 && errno != EINTR) {
      std::perror("softwire: poll");
      return 1;
    }
    carry(tun, tunnel, "softwire: out");
    carry(tunnel, tun, "softwire: in");
  }
  return 0;
}
