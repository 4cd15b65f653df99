// The STUN tick (docs: paths.md "Timers", "Failure"): asks servers from the tunnel's own port what our address looks
// like from outside, RFC 8489 §7. A NAT that forgot its mappings answers with another address; when the *same* server
// has said so twice, the mapping has changed and every peer must hear from us at once.
//
// While any peer is busy one request goes out every 150 ms, whatever the number of peers, alternating between servers;
// a first differing answer is confirmed by asking that server again immediately. Sans-IO; slow thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/stun/message.h"

namespace penstock::gateway {

class StunTick {
 public:
  enum class Pace : std::uint8_t { busy, active, idle };

  struct Request {
    Endpoint server;
    stun::TransactionId transaction;
  };
  struct Mapped {
    Endpoint server;
    Endpoint mapped;       // unspecified with port 0: the server does not answer any more
    bool changed = false;  // it was known and is another now: tunnels must be opened anew
  };
  enum class Verdict : std::uint8_t { consumed, not_ours, malformed };

  explicit StunTick(Random& random) : random_(random) {}

  // At most 8 are used. What is known of servers that stay is kept.
  void set_servers(std::span<const Endpoint> servers, Instant now);
  void set_pace(Pace pace, Instant now);

  // A STUN message that arrived on the tunnel's port. not_ours: no answer to a request of ours from that server.
  Verdict handle(Bytes datagram, const Endpoint& from, Instant now);

  [[nodiscard]] Instant next_timeout() const { return servers_.empty() ? kNever : next_; }
  void handle_timeout(Instant now);

  // Drained after every call.
  std::optional<Request> poll_request();
  std::optional<Mapped> poll_mapped();

 private:
  struct Sent {
    stun::TransactionId transaction{};
    bool waiting = false;
  };
  struct Server {
    Endpoint address;
    std::optional<Endpoint> mapped;
    std::optional<Endpoint> suspected;  // said once
    std::array<Sent, 8> sent{};
    std::uint8_t next_sent = 0;
    std::uint8_t unanswered = 0;
  };

  void ask(Server& server);
  [[nodiscard]] Duration interval() const;

  Random& random_;
  std::vector<Server> servers_;
  std::size_t turn_ = 0;
  Pace pace_ = Pace::idle;
  Instant last_{};
  Instant next_ = kNever;
  std::vector<Request> requests_;
  std::vector<Mapped> news_;
};

}  // namespace penstock::gateway
