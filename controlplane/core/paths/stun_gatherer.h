// StunGatherer: what our sockets look like from outside (server-reflexive candidates), and noticing when that changes.
//
// Every socket asks every server of its family once (RFC 8489 Binding, from the tunnel's own socket). After that one
// answering server per socket is the *tick*: asked every 150 ms while busy, seldom otherwise; the others are asked
// again now and then. A mapping counts as changed when the same server reports the same new address twice running - one
// late or reordered answer changes nothing, and a NAT that gives every packet another port makes no storm (trap
// paths-11). A mapping not confirmed for kStale is no candidate any more (trap paths-15).
//
// Sans-IO, one thread. Bounded: kMaxTargets pairs of socket and server.
#pragma once

#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "controlplane/core/paths/types.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/stun/message.h"

namespace penstock::paths {

class StunGatherer {
 public:
  static constexpr Duration kBusyTick = std::chrono::milliseconds{150};
  static constexpr Duration kActiveTick = std::chrono::seconds{1};
  static constexpr Duration kIdleTick = std::chrono::seconds{25};
  static constexpr Duration kOtherServers = std::chrono::seconds{25};
  static constexpr Duration kStale = std::chrono::seconds{90};
  static constexpr Duration kFirstRetry = std::chrono::milliseconds{250};
  // A server that has answered before is asked at least so often at first: it may just have been restarted.
  static constexpr Duration kSoonRetry = std::chrono::seconds{1};
  static constexpr unsigned kSoonRetries = 30;
  static constexpr Duration kMaxRetry = std::chrono::seconds{30};
  static constexpr std::size_t kMaxTargets = 32;

  enum class Pace : std::uint8_t { busy, active, idle };

  explicit StunGatherer(Random& random) : random_(random) {}

  // Pairs of one family each; what is known about pairs that stay is kept.
  void set_targets(std::span<const Endpoint> sockets, std::span<const Endpoint> servers, Instant now);
  // Our network changed: forget every mapping and ask at once.
  void restart(Instant now);
  // Something seems wrong: ask every server that has answered at once, keep what is known.
  void verify(Instant now);
  void set_pace(Pace pace, Instant now);

  // A Binding response that arrived at `local` from `server`. stun_unexpected when nobody asked.
  DropReason handle_response(const stun::Message& message, const Endpoint& local, const Endpoint& server, Instant now);

  // Fresh mappings of all sockets, each once.
  [[nodiscard]] std::vector<Endpoint> reflexive(Instant now) const;
  // A socket whose *known* mapping moved, once per change: as this server sees it now.
  struct Moved {
    Endpoint local;
    Endpoint server;
    Endpoint mapped;
  };
  std::optional<Moved> poll_moved();
  [[nodiscard]] std::optional<Duration> rtt(const Endpoint& server) const;
  // A server that answers again after it had not.
  std::optional<Endpoint> poll_returned();

  std::optional<Transmit> poll_transmit();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

 private:
  struct Asked {
    stun::TransactionId id{};
    Instant at{};
  };
  struct Target {
    Endpoint local;
    Endpoint server;
    std::optional<Endpoint> mapped;
    std::optional<Endpoint> suspected;  // reported once, differs from `mapped`
    Instant confirmed{};
    Instant last_asked{};
    Instant next{};
    unsigned unanswered = 0;
    std::optional<Duration> rtt;
    std::deque<Asked> asked;
  };
  void ask(Target& target, Instant now);
  [[nodiscard]] bool is_tick(const Target& target) const;
  [[nodiscard]] Duration interval(const Target& target) const;

  Random& random_;
  Pace pace_ = Pace::active;
  std::vector<Target> targets_;
  std::deque<Transmit> output_;
  std::deque<Moved> moved_;
  std::deque<Endpoint> returned_;
};

}  // namespace penstock::paths
