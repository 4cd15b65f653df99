// The sockets of the stub resolver: UDP and TCP (RFC 7766) on the sentinel addresses.
//
// Only this machine is answered: the kernel's weak-host model would let the LAN reach these addresses too. A UDP query
// must have come by the device that holds the addresses (where the kernel lets local traffic to them appear) or by
// loopback; a TCP connection must come from an address of this machine, which nobody else can complete a handshake
// with. Connections are limited; the one idle for longest makes room. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/core/dns/stub_resolver.h"
#include "controlplane/core/dns/tcp_session.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/udp_socket.h"

namespace penstock::io {

struct DnsListenerConfig {
  std::vector<IpAddress> addresses;
  int device = 0;  // that holds them
  std::uint16_t port = 53;
  std::size_t max_connections = 128;
};

class DnsListener {
 public:
  // Returns the answer when there is one at once (valid until the next call), else nothing.
  using QueryHandler = std::function<Bytes(Bytes message, const dns::Client& client)>;

  DnsListener(Loop& loop, QueryHandler handler);
  ~DnsListener();
  DnsListener(const DnsListener&) = delete;
  DnsListener& operator=(const DnsListener&) = delete;

  // Opens what can be opened; one line per address that could not.
  std::vector<std::string> open(const DnsListenerConfig& config);
  // A late answer.
  void answer(const dns::Answer& answer);

  [[nodiscard]] std::size_t connections() const { return connections_.size(); }

 private:
  struct Udp {
    UdpSocket socket;
    Loop::Source source;
  };
  struct Listening {
    Descriptor fd;
    Loop::Source source;
    Endpoint local;
  };
  struct Connection {
    Connection(Instant now) : session(now) {}
    Descriptor fd;
    Loop::Source source;
    dns::TcpSession session;
    dns::Client client;
    bool ended = false;  // the client sends no more; answers may still go out
  };

  void receive_udp(std::size_t index);
  void accept(std::size_t index);
  void serve(std::uint64_t id, std::uint32_t events);
  void run_queries(Connection& connection);
  // False: the connection is closed.
  bool write(std::uint64_t id, Connection& connection);
  void arm_idle_timer();
  void close_idle();

  Loop& loop_;
  QueryHandler handler_;
  DnsListenerConfig config_;
  int loopback_ = 0;
  std::vector<std::unique_ptr<Udp>> udp_;
  std::vector<std::unique_ptr<Listening>> tcp_;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::uint64_t next_connection_ = 1;
  Loop::Timer idle_timer_;
};

}  // namespace penstock::io
