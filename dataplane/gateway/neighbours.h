// Address resolution and reachability of neighbours: ARP (RFC 826) and neighbour discovery with unreachability
// detection (RFC 4861 §7), the writer of NeighbourTable. One state machine serves both families.
//
//     (none) --wait--> incomplete --answer--> reachable --30 s--> stale --used--> delay --5 s--> probe --no answer-->
//     incomplete
//                          `--3 unanswered--> failed --3 s--> (none)
//
// Packets that wait are bounded per neighbour and in all; when the neighbour does not answer, their senders get an ICMP
// host unreachable. Runs on the slow thread.
#pragma once

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/handover/state.h"
#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/slow_context.h"

namespace penstock::gateway {

class Neighbours {
 public:
  Neighbours(SlowContext& context, NeighbourTable& table);

  // An ARP or ND packet (ToSlow::neighbour). Takes it.
  void learn(Packet* packet, Instant now);
  // An IP packet whose next hop is not resolved; `port` and `next_hop` as the route stage left them. Takes it.
  void wait(Packet* packet, Instant now);

  // For the next process; and of the one before: used at once, and asked whether it is still right (RFC 4861: stale).
  [[nodiscard]] std::vector<handover::Neighbour> usable() const;
  void inherit(PortIndex port, const IpAddress& address, const MacAddress& mac, Instant now);

  [[nodiscard]] Instant next_timeout() const;
  void handle_timeout(Instant now);

  [[nodiscard]] std::size_t held() const { return held_; }

 private:
  struct Entry {
    Instant deadline = kNever;
    Instant stale_since{};
    std::uint8_t solicitations = 0;
    std::uint16_t worker = 0;  // through whose queue we ask
    std::vector<Packet*> waiting;
  };

  // How sure a message makes us: it answers our question, or merely mentions the address.
  enum class Evidence : std::uint8_t { answer, mention };

  void learn_arp(const Packet& packet, Instant now);
  void learn_discovery(const Packet& packet, Instant now);
  void heard(const NeighbourView& view, const MacAddress& mac, Evidence evidence, Instant now);
  void set_state(const NeighbourView& view, const MacAddress& mac, NeighbourState state, Instant now);
  std::uint32_t insert(PortIndex port, const IpAddress& address, Instant now);
  void erase(std::uint32_t slot);
  void start(std::uint32_t slot, Instant now);
  void solicit(const NeighbourView& view, bool unicast);
  void release(std::uint32_t slot);
  void fail(std::uint32_t slot, Instant now);
  void due(std::uint32_t slot, Instant now);
  void look_at_stale(Instant now);
  void arm(std::uint32_t slot, Instant deadline);

  SlowContext& context_;
  NeighbourTable& table_;
  std::vector<Entry> entries_;  // by slot of the table
  std::set<std::pair<Instant, std::uint32_t>> deadlines_;
  std::set<std::uint32_t> stale_;
  Instant stale_look_ = kNever;
  std::size_t incomplete_ = 0;
  std::size_t held_ = 0;
};

}  // namespace penstock::gateway
