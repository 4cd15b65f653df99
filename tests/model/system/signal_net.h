// Signaling streams between clients, gateways and the portal as the network treats them: TCP with TLS, in order, each
// message retransmitted until it passes; broken by what breaks TCP. A NAT that has forgotten the connection gives its
// packets another source, and the portal's machine resets what it does not know; a partition is found out by keepalives
// (10 s, 5 s), on each side by itself; a killed process resets.
//
// Messages are bytes (serialized protobuf). Everything happens by events of the Network.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "controlplane/core/broker/broker.h"
#include "tests/model/system/host.h"

namespace penstock::model {

class SignalNet {
 public:
  using StreamId = std::uint64_t;
  struct ClientHooks {
    std::function<void()> accepted;
    std::function<void(const std::string& message)> message;
    std::function<void(const std::string& why, bool unauthenticated)> closed;
  };
  struct ServerHooks {
    std::function<std::optional<std::string>(broker::Role, const std::string& token)> authenticate;
    std::function<void(StreamId, broker::Role, const std::string& actor, const Endpoint& from)> connected;
    std::function<void(StreamId, const std::string& message)> message;
    std::function<void(StreamId)> disconnected;
  };

  explicit SignalNet(Network& network) : network_(network) {}

  void listen(Host& host, std::vector<Endpoint> at, ServerHooks hooks);
  // The portal's process has ended: its machine resets every stream.
  void stop_listening();

  // `process` is whose stream it is; the hooks run in it.
  StreamId dial(Host& host, const std::shared_ptr<Process>& process, const Endpoint& portal, broker::Role role,
                std::string token, ClientHooks hooks);
  void send_to_server(StreamId id, std::string message);
  void send_to_client(StreamId id, std::string message);
  // The client does not want it any more; no hook is called.
  void abandon(StreamId id);
  void end_by_server(StreamId id, const std::string& why, bool unauthenticated);

  [[nodiscard]] std::size_t streams() const { return streams_.size(); }
  [[nodiscard]] std::uint64_t messages() const { return messages_; }

 private:
  struct Direction {
    std::deque<std::string> queue;
    Instant last_arrival{};
    Duration backoff{};
    bool waiting = false;
  };
  struct Stream {
    Host* host = nullptr;
    std::shared_ptr<Process> process;
    broker::Role role{};
    std::string token;
    Endpoint local, portal, seen;  // seen: by the portal's machine
    ClientHooks hooks;
    bool client_open = true;
    bool server_open = false;
    bool accepted = false;
    Direction up, down;
  };

  void connect(StreamId id, Duration retry);
  void establish(StreamId id);
  void pump(StreamId id, bool up);
  // How long a segment takes now; nullopt: it is lost. The other end may answer with a reset, which is then on its way.
  std::optional<Duration> transfer(StreamId id, bool up);
  void reset_client(StreamId id, Duration after, const std::string& why);
  void close_client(StreamId id, const std::string& why, bool unauthenticated);
  void close_server(StreamId id);
  void keepalive(StreamId id, bool by_client);
  void ping(StreamId id, bool by_client, Instant started, Duration retry);
  void forget_if_over(StreamId id);
  Stream* find(StreamId id);

  Network& network_;
  Host* server_ = nullptr;
  std::vector<Endpoint> listening_;
  ServerHooks server_hooks_;
  bool open_ = false;
  std::map<StreamId, Stream> streams_;
  StreamId next_ = 0;
  std::uint16_t next_port_ = 33000;
  std::uint64_t messages_ = 0;
};

// What a process does to keep a stream to the portal (as controlplane/io's SignalingClient does).
class PortalLink {
 public:
  struct Hooks {
    std::function<void()> connected;
    std::function<void(const std::string&)> message;
    std::function<void()> disconnected;
  };
  PortalLink(SignalNet& net, Network& network, Host& host, std::shared_ptr<Process> process, broker::Role role,
             std::string token, std::vector<Endpoint> portal, Random& random, Hooks hooks);
  ~PortalLink();
  PortalLink(const PortalLink&) = delete;
  PortalLink& operator=(const PortalLink&) = delete;

  void start();
  void stop();
  void send(std::string message);
  void suspect();
  [[nodiscard]] bool connected() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace penstock::model
