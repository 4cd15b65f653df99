// One bidirectional signaling stream to the portal, kept alive: TLS, bearer token, keepalive, reconnecting for ever.
//
// Theory of operation. The portal's name is resolved at every attempt and all its addresses of both families are raced,
// 250 ms apart (RFC 8305 in spirit), so that an IPv6 that does not route costs a quarter of a second. An attempt has
// won when the portal has accepted its token (initial metadata); only then is it told to the owner, who sends Hello
// first. Nothing is sent on a stream that was not accepted, and what was queued for a lost stream dies with it: after
// `connected` the owner says again what still matters. HTTP/2 pings every 10 s find a dead way within 15 s; an owner
// that knows sooner calls suspect(), which dials a second stream at once and drops the old one only when the new one
// has been accepted. Lost streams are redialled with jittered backoff (250 ms to 30 s), reset when the portal's first
// message arrives. Only UNAUTHENTICATED is fatal: `unauthenticated` is called once and nothing is tried again until
// start() is called.
//
// All calls and callbacks happen on the loop's thread; gRPC's threads never enter the owner. Destroying the object
// cancels everything; no callback comes after that.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "controlplane/io/loop.h"
#include "dataplane/core/base/random.h"
#include "penstock/v1/signaling.pb.h"

namespace penstock::io {

struct SignalingConfig {
  std::string address;      // "host:port", "1.2.3.4:8443", "[2001:db8::1]:8443"
  std::string server_name;  // in the portal's certificate; empty: the host of `address`
  std::string ca_pem;       // roots to trust; empty: the system's
  std::string token;        // never logged
  std::string proxy;        // "host:port" of an HTTP proxy to go through (CONNECT); empty: none
};

template <typename Outgoing, typename Incoming>
class SignalingClient {
 public:
  struct Callbacks {
    std::function<void()> connected;  // accepted: send Hello now
    std::function<void(Incoming)> message;
    std::function<void(const std::string& why)> disconnected;     // was connected; redialling has begun
    std::function<void(const std::string& why)> unauthenticated;  // the token is not (or no longer) good: stopped
    std::function<void(const std::string& why)> attempt_failed;   // optional, for the log and status
  };

  // `loop` and `random` outlive the client.
  SignalingClient(Loop& loop, Random& random, SignalingConfig config, Callbacks callbacks);
  ~SignalingClient();
  SignalingClient(const SignalingClient&) = delete;
  SignalingClient& operator=(const SignalingClient&) = delete;

  void start();
  // Closes the stream and stops dialling.
  void stop();

  // Queued behind what is being written; ignored (false) while not connected. A portal that does not read for 4096
  // messages loses the stream.
  bool send(Outgoing message);
  // The way to the portal may be dead: dial beside the standing stream. At most one such dial a second.
  void suspect();

  [[nodiscard]] bool connected() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

using ClientSignaling = SignalingClient<v1::ClientToPortal, v1::PortalToClient>;
using GatewaySignaling = SignalingClient<v1::GatewayToPortal, v1::PortalToGateway>;

// Checked before anything is dialled, so that a mistake is an error of the configuration: empty when well-formed.
[[nodiscard]] std::string check_portal_address(const std::string& address);

}  // namespace penstock::io
