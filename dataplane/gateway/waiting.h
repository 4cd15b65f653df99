// Packets that wait on the slow thread: for a session with a peer, or for a name to be resolved (paths.md "First
// packet").
//
// Every queue is bounded (SlowPathLimits) and keeps order; an identical copy of a packet that waits already (a
// retransmitted SYN) is dropped rather than kept twice. What waits too long is given up with a reason.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/policy/snapshot.h"
#include "dataplane/gateway/slow_context.h"

namespace penstock::gateway {

// Whether two packets (data at IP headers) say the same, identification and lifetime aside.
[[nodiscard]] bool is_copy(const Packet& a, const Packet& b);

class SessionQueue {
 public:
  explicit SessionQueue(SlowContext& context) : context_(context) {}
  // Takes the packet. False: it is not kept (dropped), nothing need be started for it.
  bool hold(Packet* packet, Instant now);
  // The session is up: in order, to the peer.
  void release(PeerIndex peer);
  // There will be none.
  void give_up(PeerIndex peer, DropReason reason);
  // May be early after a release; handle_timeout puts it right.
  [[nodiscard]] Instant next_timeout() const { return earliest_; }
  void handle_timeout(Instant now);
  [[nodiscard]] std::size_t held() const { return held_; }

 private:
  struct Queue {
    std::vector<Packet*> packets;
    Instant deadline{};
  };
  SlowContext& context_;
  std::map<PeerIndex, Queue> queues_;
  std::size_t held_ = 0;
  Instant earliest_ = kNever;
};

class NameQueue {
 public:
  explicit NameQueue(SlowContext& context) : context_(context) {}
  // Takes the packet (data at the inner header, drop_reason: what to count when it is given up). True: it is the first
  // one that waits for its destination.
  bool hold(Packet* packet, const policy::PeerPolicy& policy, Instant now);
  // A new policy of the peer: what does not wait for a name any longer is judged again by a worker, in order. A name
  // that the policy does not know may still be on its way here. nullptr: the peer is gone.
  void policy_published(PeerIndex peer, const policy::PeerPolicy* policy, Instant now);
  // May be early after a release; handle_timeout puts it right.
  [[nodiscard]] Instant next_timeout() const { return earliest_; }
  void handle_timeout(Instant now);
  [[nodiscard]] std::size_t held() const { return held_; }

 private:
  struct Queue {
    std::vector<Packet*> packets;
    std::size_t bytes = 0;
    Instant deadline{};
  };
  using Key = std::pair<PeerIndex, IpAddress>;  // peer and proxy address

  void refuse(Packet* packet, Instant now);

  SlowContext& context_;
  std::map<Key, Queue> queues_;
  std::map<PeerIndex, std::size_t> per_peer_;
  std::size_t held_ = 0;
  Instant earliest_ = kNever;
};

}  // namespace penstock::gateway
