// Learns the tunnel port's public addresses: STUN Binding requests to the relays, from the tunnel's own port.
// Sans-IO; one thread.
//
// A request is repeated after 250, 500, 1000 ... ms, seven times in all (RFC 8489 §6.2.1 with a shorter start, because
// a client may be waiting), asked again every 30 s after an answer and every 30 s after a failure. Only answers with
// the transaction of a request to that very server count. The data plane's tick reports changes sooner: set_mapped().
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "controlplane/core/deadline.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/stun/message.h"

namespace penstock::gateway_agent {

inline constexpr std::size_t kMaxStunServers = 8;

class ReflexiveGatherer {
 public:
  explicit ReflexiveGatherer(Random& random) : random_(&random) {}

  void set_servers(const std::vector<Endpoint>& servers, Instant now);
  // Everything anew, at once: the data plane is back, perhaps behind another mapping.
  void restart(Instant now);
  // From the data plane's tick; nullopt: the server does not answer any more. True: it saw us at another address
  // before.
  bool set_mapped(const Endpoint& server, const std::optional<Endpoint>& mapped);
  // True when it was an answer to one of our requests.
  bool handle_datagram(const Endpoint& from, Bytes datagram, Instant now);

  struct Request {
    Endpoint server;
    stun::TransactionId transaction;
  };
  [[nodiscard]] std::optional<Request> poll_request();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

  // Distinct public addresses, by server.
  [[nodiscard]] std::vector<Endpoint> mapped() const;
  [[nodiscard]] std::vector<Endpoint> servers() const;

 private:
  struct Server {
    stun::TransactionId transaction{};
    unsigned tries = 0;
    Instant next{};
    std::optional<Endpoint> mapped;
  };

  Random* random_;
  std::map<Endpoint, Server> servers_;
  std::deque<Request> out_;
};

}  // namespace penstock::gateway_agent
