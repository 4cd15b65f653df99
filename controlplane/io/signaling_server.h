// The portal's end of signaling: TLS, bearer tokens, one bidirectional stream per client and gateway.
//
// Theory of operation. A stream is announced to the owner only after its token has been accepted; the acceptance goes
// out at once (initial metadata), so that the other side may send its Hello. The next message of a stream is read when
// the owner has handled the one before, so nobody can flood the loop. A stream that does not read for 4096 messages is
// closed. Clients may ping as often as they like and without calls; the server pings every 10 s and gives a silent
// connection up after another 10 s (docs/protocol.md, "Signaling").
//
// All callbacks and calls happen on the loop's thread. `disconnected` is called exactly once for every announced
// stream, also after close(); nothing is called once the server is destroyed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "controlplane/io/loop.h"
#include "dataplane/core/base/address.h"
#include "penstock/v1/signaling.pb.h"

namespace penstock::io {

struct SignalingServerConfig {
  std::string listen;  // "address:port"; port 0: any
  std::string certificate_pem;
  std::string key_pem;
  Duration keepalive = std::chrono::seconds{10};  // of pings, and how long one may stay unanswered
};

enum class StreamEnd : std::uint8_t { unauthenticated, replaced, bad_message, exhausted, ending };

class SignalingServer {
 public:
  struct Callbacks {
    // The actor that presents the token, if any.
    std::function<std::optional<std::string>(bool is_gateway, std::string_view token)> authenticate;
    std::function<void(std::uint64_t stream, bool is_gateway, const std::string& actor, const Endpoint& from)>
        connected;
    std::function<void(std::uint64_t stream, const v1::ClientToPortal&)> from_client;
    std::function<void(std::uint64_t stream, const v1::GatewayToPortal&)> from_gateway;
    std::function<void(std::uint64_t stream)> disconnected;
    std::function<void(const std::string& why)> refused;  // optional, for the log
  };

  // nullptr and `error` set when the address cannot be had or the certificate does not load.
  [[nodiscard]] static std::unique_ptr<SignalingServer> listen(Loop& loop, const SignalingServerConfig& config,
                                                               Callbacks callbacks, std::string& error);
  // Streams end with UNAVAILABLE, so that the other side comes back.
  ~SignalingServer();

  // Unknown streams are ignored.
  void send(std::uint64_t stream, v1::PortalToClient message);
  void send(std::uint64_t stream, v1::PortalToGateway message);
  void close(std::uint64_t stream, StreamEnd end, const std::string& detail);

  [[nodiscard]] std::uint16_t port() const;

 private:
  struct Impl;
  explicit SignalingServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::io
