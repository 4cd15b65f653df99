// The stub resolver's questions to upstream resolvers: a fresh socket with a random port for each, marked so that it
// never enters the tunnel.
//
// UDP sockets are connected, so the kernel drops what comes from elsewhere; TCP carries one question. Sockets live
// until close() or until TCP has ended. Bounded by the resolver's own limit of questions under way. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "controlplane/core/dns/stub_resolver.h"
#include "controlplane/io/descriptor.h"
#include "controlplane/io/loop.h"

namespace penstock::io {

class DnsUpstream {
 public:
  struct Callbacks {
    std::function<void(std::uint64_t exchange, const Endpoint& from, Bytes message)> received;
    std::function<void(std::uint64_t exchange)> failed;  // never from inside send()
  };

  DnsUpstream(Loop& loop, std::uint32_t mark, Callbacks callbacks);
  ~DnsUpstream();
  DnsUpstream(const DnsUpstream&) = delete;
  DnsUpstream& operator=(const DnsUpstream&) = delete;

  void send(const dns::UpstreamSend& request);
  void close(std::uint64_t exchange) { exchanges_.erase(exchange); }

 private:
  struct Exchange {
    Descriptor fd;
    Loop::Source source;
    Endpoint upstream;
    bool tcp = false;
    std::vector<std::uint8_t> out;  // TCP: framed, not yet written
    std::vector<std::uint8_t> in;
  };

  // False when the socket cannot be had.
  bool start(Exchange& exchange, const dns::UpstreamSend& request);
  void ready(std::uint64_t id, std::uint32_t events);
  void ready_udp(std::uint64_t id, Exchange& exchange);
  void ready_tcp(std::uint64_t id, Exchange& exchange, std::uint32_t events);
  void fail(std::uint64_t id);

  Loop& loop_;
  std::uint32_t mark_;
  Callbacks callbacks_;
  std::map<std::uint64_t, std::unique_ptr<Exchange>> exchanges_;
  // Posted failures must not reach an object that is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace penstock::io
