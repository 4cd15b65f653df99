// An authoritative DNS server on loopback, on the test's own loop: UDP, A and AAAA from a map, NXDOMAIN for the rest.
#pragma once

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "controlplane/core/convert.h"
#include "controlplane/io/loop.h"

namespace penstock {

class FakeDnsServer {
 public:
  explicit FakeDnsServer(io::Loop& loop) : fd_(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    socklen_t size = sizeof address;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    endpoint_ = {IpAddress::v4(0x7f000001), ntohs(address.sin_port)};
    source_ = loop.add_fd(fd_, EPOLLIN, [this](std::uint32_t) { serve(); });
  }
  ~FakeDnsServer() {
    source_.reset();
    close(fd_);
  }
  FakeDnsServer(const FakeDnsServer&) = delete;
  FakeDnsServer& operator=(const FakeDnsServer&) = delete;

  [[nodiscard]] const Endpoint& endpoint() const { return endpoint_; }
  std::map<std::string, std::vector<IpAddress>> zone;
  bool silent = false;
  int queries = 0;

 private:
  void serve() {
    char buffer[1500];
    sockaddr_in from{};
    socklen_t size = sizeof from;
    for (;;) {
      const ssize_t got = recvfrom(fd_, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
      if (got < 17) return;
      ++queries;
      if (silent) continue;
      const std::string answer = reply({buffer, static_cast<std::size_t>(got)});
      sendto(fd_, answer.data(), answer.size(), 0, reinterpret_cast<const sockaddr*>(&from), size);
    }
  }

  std::string reply(const std::string& query) const {
    std::string name;
    std::size_t at = 12;
    while (at < query.size() && query[at] != 0) {
      const auto length = static_cast<std::size_t>(query[at]);
      if (!name.empty()) name.push_back('.');
      name.append(query, at + 1, length);
      at += 1 + length;
    }
    const std::size_t end = at + 5;
    const int type = query[at + 2];
    const auto found = zone.find(name);
    std::string records;
    char count = 0;
    if (found != zone.end()) {
      for (const IpAddress& address : found->second) {
        if (type != (address.is_v4() ? 1 : 28)) continue;
        ++count;
        const std::string bytes = to_wire(address);
        records.append("\xc0\x0c\x00", 3);
        records.push_back(static_cast<char>(type));
        records.append("\x00\x01\x00\x00\x00\x3c\x00", 7);
        records.push_back(static_cast<char>(bytes.size()));
        records.append(bytes);
      }
    }
    std::string out = query.substr(0, end);
    out[2] = static_cast<char>(0x85);
    out[3] = static_cast<char>(found == zone.end() ? 0x83 : 0x80);
    out[7] = count;
    out[9] = out[11] = 0;  // no authority, no additional records
    return out + records;
  }

  int fd_;
  Endpoint endpoint_;
  io::Loop::Source source_;
};

}  // namespace penstock
