// Opens the gateway's NAT towards clients: a few STUN Binding Indications to each candidate. Sans-IO; one thread.
//
// Up to eight punches over about two seconds per round; a candidate that is named again starts a new round, at most once
// a second, of at most half of what is left for it, and within that second brings the next one forward. Nobody can use a
// gateway as a reflector or scanner: at most 8 candidates per peer, 20 punches per candidate in any minute, and a global
// budget of 500 a second. Which addresses may be punched at all is the owner's to say. docs/paths.md "Candidates".
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "controlplane/core/convert.h"
#include "controlplane/core/deadline.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"

namespace penstock::gateway_agent {

inline constexpr std::size_t kMaxTargetsPerPeer = 8;
inline constexpr unsigned kMaxPunchesPerMinute = 20;
inline constexpr unsigned kPunchesPerRound = 8;
inline constexpr double kPunchesPerSecond = 500;

class Puncher {
 public:
  // The peer's whole list; those not in it any more are left alone.
  void set_targets(const Key& peer, const std::vector<Endpoint>& targets, Instant now);
  void remove(const Key& peer);

  // Where to send one punch now; drain it.
  [[nodiscard]] std::optional<Endpoint> poll();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

 private:
  struct Target {
    std::uint8_t chosen = 0;  // of the round's times, those to come
    Instant round_started{};
    Instant next = kNever;
    std::deque<Instant> sent;  // within the last minute
  };
  using Id = std::pair<Key, Endpoint>;

  void begin_round(const Id& id, Target& target, Instant now);
  void schedule_next(const Id& id, Target& target, Instant now);
  static void forget_old(Target& target, Instant now);
  void schedule(const Id& id, Target& target, Instant at);

  std::map<Key, std::map<Endpoint, Target>> peers_;
  std::set<std::pair<Instant, Id>> due_;
  std::deque<Endpoint> out_;
  double tokens_ = kPunchesPerSecond;
  Instant counted_{};
};

}  // namespace penstock::gateway_agent
