// NAT44, NAT66, NAT64 and NAT46 with state, for one worker: from the tunnels to the LAN ("up") and back ("down").
//
// Theory of operation. A flow is the full tuple (peer, protocol, inside address and port, proxy or destination address
// and port) on one side and (protocol, source address and port of ours, remote address and port) on the other. The
// first packet of a flow from inside is judged by the peer's policy; the verdict's real destination decides the family:
// the packet's own where the name has an address of it and we have a source address, the other one otherwise. Header
// rewriting follows RFC 7915, sessions RFC 6146 §3.5, ports RFC 4787/5382/6056, ICMP RFC 5508.
//
// Every packet handed in comes out exactly once, as one or more outcomes, at once or (fragments are held until their
// datagram is whole, SYNs of nobody's until they are answered) in a later call. Packets made here (ICMP errors, RSTs, fragments) come out likewise. Order within
// a flow is kept.
//
// Threads: all members belong to the worker's thread, except flow_count(), for_each_flow() and map_ahead(), which any
// thread may call. No allocation after construction, no locks, no clock. Errors are outcomes with a DropReason.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/nat/config.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/packet_source.h"
#include "dataplane/core/policy/view.h"

namespace penstock::nat {

struct FlowHandover;  // handover.h

using policy::PolicyView;

enum class Action : std::uint8_t {
  to_outside,  // data at an IP header whose destination is real: route it to the LAN
  to_inside,   // data at an inner IP packet for `packet->peer`: encrypt it
  drop,        // with `reason`
  wait,        // the name is being resolved: keep the untouched packet, hand it in again when the state has changed
  handover,    // for `worker`, untouched, data at the IP header
  not_ours,    // down: addressed to us but of no flow; local delivery or exception path decides
};

struct Outcome {
  Packet* packet = nullptr;
  Action action = Action::drop;
  DropReason reason = DropReason::none;  // drop: why; wait: the name_* state
  std::uint16_t worker = 0;              // handover
};

// What a call has decided, in order. The caller consumes and clears it after every call.
class Outcomes {
 public:
  Outcomes() { list_.reserve(kReserved); }
  void add(const Outcome& outcome) { list_.push_back(outcome); }
  [[nodiscard]] std::size_t size() const { return list_.size(); }
  [[nodiscard]] bool empty() const { return list_.empty(); }
  [[nodiscard]] const Outcome& operator[](std::size_t i) const { return list_[i]; }
  [[nodiscard]] const Outcome* begin() const { return list_.data(); }
  [[nodiscard]] const Outcome* end() const { return list_.data() + list_.size(); }
  void clear() { list_.clear(); }

 private:
  // A burst in which every packet is fragmented, or completes a datagram of fragments, still fits.
  static constexpr std::size_t kReserved = kBurst * 64;
  std::vector<Outcome> list_;
};

// One flow as people see it (`show flows`).
struct FlowInfo {
  PeerIndex peer = kNoPeer;
  std::uint8_t protocol = 0;    // inside; ICMP: the inside family's number
  Endpoint inside_source;       // ICMP: the port is the identifier
  Endpoint inside_destination;  // proxy or real address
  Endpoint outside_source;      // ours
  Endpoint outside_destination;
  std::string_view translation;  // nat44, nat66, nat64, nat46
  std::string_view state;        // tcp: init, established, ...; otherwise active
  Duration idle{};
  Duration expires_in{};
  std::uint64_t packets_up = 0;
  std::uint64_t packets_down = 0;
  std::uint32_t translation_tag = 0;  // policy::translation_tag of the name; 0: none
};

struct TranslatorCounters {
  std::uint64_t translated_up = 0, translated_down = 0;
  std::uint64_t flows_created = 0, flows_ended = 0, flows_expired = 0, flows_revoked = 0;
  std::uint64_t flows_moved = 0;  // to another address of their name
  std::uint64_t icmp_errors_sent = 0, resets_sent = 0, icmp_errors_translated = 0;
};

class Translator {
 public:
  // `random` and `packets` must outlive the translator.
  Translator(const TranslatorConfig& config, Random& random, PacketSource& packets);
  ~Translator();
  Translator(const Translator&) = delete;
  Translator& operator=(const Translator&) = delete;

  // Packets from tunnels: data at the inner IP header, packet->peer set. At most kBurst.
  void translate_up(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out);
  // Packets from the LAN whose destination is one of our source addresses: data at the IP header. At most kBurst.
  void translate_down(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out);

  // Whether `address` is one of ours that flows return to.
  [[nodiscard]] bool is_source_address(const IpAddress& address) const;

  // Which worker must see a packet from a tunnel, or one from the LAN. Pure functions of the configuration and the
  // bytes; a packet that cannot be parsed belongs to whoever has it (`worker`). The translate functions ask by
  // themselves and give out `handover`.
  [[nodiscard]] std::uint16_t owner_of_inside(const Packet& packet) const;
  [[nodiscard]] std::uint16_t owner_of_outside(const Packet& packet) const;

  // A binding that stays (RFC 6146 §3.5.1: configured by hand): `inside` appears as `outside`, one of our source
  // addresses. TCP, UDP, or ip_protocol::icmp with identifiers for ports. False: not with an endpoint-independent mapping,
  // either is bound already, or `outside` is not ours. Before the first packet.
  bool add_binding(PeerIndex peer, std::uint8_t protocol, const Endpoint& inside, const Endpoint& outside);

  // Ageing is done in small steps by the translate functions; handle_timeout does a larger one (1024 flows). Call it
  // whenever poll_timeout is reached, which after a large expiry may be the same instant a few times over. Held
  // fragments that have waited too long come out as drops.
  [[nodiscard]] Instant poll_timeout() const;
  void handle_timeout(PolicyView policies, Now now, Outcomes& out);

  // Ends the flows of peers that have no policy any more, looking at `budget` slots per call and going on where the
  // last call stopped; `restart` begins anew. True when all have been looked at. Their packets would be refused anyway;
  // this gives their memory and ports back without waiting for their timers.
  bool end_orphans(PolicyView policies, bool restart, std::uint32_t budget);

  // Maps the memory of flows to come, so that the worker does not wait for it. Now and then, by one thread: any.
  void map_ahead();

  // Gives back every held packet as a drop (shutting_down).
  void release_held(Outcomes& out);

  // Any thread. The count and the flows of a moment; flows that change meanwhile may be missed or shown twice.
  [[nodiscard]] std::uint32_t flow_count() const;
  [[nodiscard]] std::uint32_t flow_capacity() const;
  void for_each_flow(Now now, const std::function<void(const FlowInfo&)>& visit) const;

  [[nodiscard]] const TranslatorCounters& counters() const;

  // For the next process (handover.h). Every flow once; those that own a binding first. The worker's thread has ended.
  void export_flows(Now now, const std::function<void(const FlowHandover&)>& take) const;
  // Before the first packet. The flow is judged by its peer's policy when its next packet comes. False: it has no place
  // here any more (its source address or port is not this worker's, its tuple is taken, it has expired, or it makes no
  // sense).
  bool import_flow(const FlowHandover& flow, Now now);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace penstock::nat
