// One connection to a TURN relay over TCP or TLS (RFC 8656 §3.1), directly or through an HTTP proxy (CONNECT, RFC 9110
// §9.3.6).
//
// Never blocks. Messages arrive whole; what is sent must be whole messages. When the connection is slow the newest
// messages are refused rather than queued without end (256 KiB): what is inside is datagrams, whose senders slow down.
// TLS checks the certificate against `name` and the given roots. `down` is called at most once and ends the stream; it
// may be destroyed in any callback. One thread: the loop's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "controlplane/io/loop.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::io {

struct RelayStreamOptions {
  Endpoint server;
  bool tls = false;
  std::string name;               // TLS: expected in the certificate, and sent as SNI
  std::string ca_pem;             // roots to trust; empty: the system's
  std::optional<Endpoint> proxy;  // an HTTP proxy to go through
  std::uint32_t mark = 0;         // SO_MARK; 0: none
};

class RelayStream {
 public:
  struct Callbacks {
    std::function<void()> up;
    std::function<void(MutableBytes)> message;
    std::function<void(const std::string& why)> down;
  };

  // Begins to connect. Never nullptr: what fails at once is told by `down` at the loop's next turn.
  static std::unique_ptr<RelayStream> open(Loop& loop, RelayStreamOptions options, Callbacks callbacks);
  ~RelayStream();
  RelayStream(const RelayStream&) = delete;
  RelayStream& operator=(const RelayStream&) = delete;

  // False: not connected, or full; the message is lost. Calls nobody back.
  bool send(Bytes message);

 private:
  struct Impl;
  explicit RelayStream(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace penstock::io
