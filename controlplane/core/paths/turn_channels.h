// Channel numbers of one TURN 5-tuple and what they are bound to (RFC 8656 §12).
//
// A binding lives ten minutes. A number is not bound again - to any peer, in this or a later allocation - before
// five minutes after its binding has expired (§12: "cool-down"), so a late ChannelData message can never be taken for
// another peer's (trap paths-12). Numbers are handed out round-robin. Bounded by the 4096 numbers there are and
// kMaxChannels at a time. One thread.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "controlplane/core/paths/types.h"
#include "dataplane/core/stun/message.h"

namespace penstock::paths {

class TurnChannels {
 public:
  static constexpr std::size_t kMaxChannels = 16;
  static constexpr Duration kLifetime = std::chrono::minutes{10};
  static constexpr Duration kCooldown = std::chrono::minutes{5};
  static constexpr Duration kRefreshBefore = std::chrono::minutes{5};

  struct Channel {
    Endpoint peer;
    std::uint16_t number = 0;
    bool bound = false;
    Instant expires = kNever;  // of the server's binding; kNever until it is confirmed
    Instant refresh_at = kNever;
    Instant last_used{};
  };

  // A new, unbound entry for `peer`; nullptr when there is one already, or no number or room is left.
  Channel* open(const Endpoint& peer, Instant now);
  // The server may have bound it at any time up to now: the number cools down as from a whole lifetime ahead, unless
  // the binding's expiry is known.
  void release(std::uint16_t number, Instant now);
  void release_all(Instant now);
  // Lets go of bindings that expired.
  void expire(Instant now);

  [[nodiscard]] Channel* find(const Endpoint& peer);
  [[nodiscard]] Channel* find(std::uint16_t number);
  [[nodiscard]] std::vector<Channel>& all() { return channels_; }
  [[nodiscard]] const std::vector<Channel>& all() const { return channels_; }

 private:
  struct Cooling {
    std::uint16_t number;
    Instant until;
  };
  [[nodiscard]] bool is_free(std::uint16_t number, Instant now) const;

  std::vector<Channel> channels_;
  std::deque<Cooling> cooling_;
  std::uint16_t next_ = stun::kFirstChannel;
};

}  // namespace penstock::paths
