// The inside of nat::Translator, for its own .cc files: burst.cc (bursts), translator.cc (ageing, inspection), up.cc and
// down.cc (the two directions), flows.cc (set-up, judgement, end), answers.cc (what is sent back).
#pragma once

#include <atomic>
#include <optional>
#include <utility>

#include "dataplane/core/flow/table.h"
#include "dataplane/core/nat/binding_log.h"
#include "dataplane/core/nat/bindings.h"
#include "dataplane/core/nat/failed_addresses.h"
#include "dataplane/core/nat/first.h"
#include "dataplane/core/nat/fitting.h"
#include "dataplane/core/nat/flow_extra.h"
#include "dataplane/core/nat/fragments.h"
#include "dataplane/core/nat/icmp_error.h"
#include "dataplane/core/nat/icmp_translate.h"
#include "dataplane/core/nat/openings.h"
#include "dataplane/core/nat/path_mtu.h"
#include "dataplane/core/nat/ports.h"
#include "dataplane/core/nat/rate_limiter.h"
#include "dataplane/core/nat/reply_steering.h"
#include "dataplane/core/nat/site_settings.h"
#include "dataplane/core/nat/tcp_state.h"
#include "dataplane/core/nat/translate.h"
#include "dataplane/core/nat/translator.h"
#include "dataplane/core/nat/unsolicited_syns.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/policy/forbidden.h"

namespace penstock::nat {

// In Packet::flow: a fragment of a datagram that another worker has seen whole and sent to the flow's owner.
inline constexpr std::uint32_t kCollected = 0xffffffff;

// What a packet is, before any table is asked.
enum class PacketKind : std::uint8_t {
  refused,  // with a reason
  query,    // TCP, UDP, ICMP echo: has a tuple
  error,    // ICMP error
  fragment,
  other,  // a protocol or ICMP type without flows
};

struct Classified {
  PacketKind kind = PacketKind::refused;
  DropReason reason = DropReason::none;
  std::uint8_t protocol = 0;  // as in flow keys
  IpView view;
  Tuple tuple;  // queries
  bool answers_inward = false;  // ICMP: an echo from outside, or the reply to one: makes no flow by itself
};

// Parses and checks one packet: lengths, IPv4 checksum, source address, transport header. `down`: echo replies instead
// of requests are what flows are made of.
[[nodiscard]] Classified classify(Packet& packet, bool down);

// Protocols whose flows have ports (or identifiers).
[[nodiscard]] bool has_ports(std::uint8_t protocol);
// Others that are carried within a family, by their addresses alone.
[[nodiscard]] bool carried_without_ports(std::uint8_t protocol);
// Whether the packet that an ICMP error quotes can belong to a flow.
[[nodiscard]] inline bool quotes_a_flow(const Quoted& quoted) {
  if (quoted.reason == DropReason::none) return true;
  return quoted.reason == DropReason::icmp_error_unmatched && !quoted.view.later_fragment() &&
         !has_ports(quoted.protocol) && carried_without_ports(quoted.protocol) &&
         quoted.protocol != ip_protocol::icmpv6;
}

// The quoted packet's tuple with an ICMP identifier as the port of the client's side, whoever asks. `up`: it went up.
[[nodiscard]] inline Tuple of_client(const Quoted& quoted, bool up) {
  Tuple out = quoted.tuple;
  if (quoted.protocol != ip_protocol::icmp) return out;
  const std::uint16_t identifier = out.source_port | out.destination_port;  // one is 0
  out.source_port = up ? identifier : 0;
  out.destination_port = up ? 0 : identifier;
  return out;
}

[[nodiscard]] flow::Translation translation_of(bool inside6, bool outside6);
// Wall seconds at which the authorisation ends; 0: never.
[[nodiscard]] std::uint32_t expiry_of(const policy::Verdict& verdict);

// Real addresses of a name, best first; those behind `count` are not set.
struct Candidates {
  static constexpr std::size_t kMax = 16;
  union {
    std::array<IpAddress, kMax> addresses;
  };
  std::size_t count = 0;
  Candidates() {}  // NOLINT: need not be cleared before it is filled
};

struct PathMtuReport {
  bool known = false;
  std::uint16_t mtu = 0;
};
// narrow.cc: what an ICMP error says about the path MTU of the packet that it quotes.
[[nodiscard]] PathMtuReport path_mtu_report(Bytes packet, const IpView& view, const Quoted& quoted);

class Translator::Implementation {
 public:
  Implementation(const TranslatorConfig& config, Random& random, PacketSource& packets);

  void up(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out);
  void down(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out);
  void handle_timeout(PolicyView policies, Now now, Outcomes& out);
  [[nodiscard]] Instant poll_timeout() const;
  bool end_orphans(PolicyView policies, bool restart, std::uint32_t budget);
  void release_held(Outcomes& out);
  bool add_binding(PeerIndex peer, std::uint8_t protocol, const Endpoint& inside, const Endpoint& outside);
  [[nodiscard]] std::optional<std::uint16_t> source_index(const IpAddress& address) const;
  [[nodiscard]] std::uint16_t owner_of(const Packet& packet, bool down) const;
  void for_each_flow(Now now, const std::function<void(const FlowInfo&)>& visit) const;
  // handover.cc
  void export_flows(Now now, const std::function<void(const FlowHandover&)>& take) const;
  bool import_flow(const FlowHandover& flow, Now now);
  void map_ahead() {
    const flow::FlowTable::Range slots = table_.map_ahead();
    if (!std::exchange(extras_mapped_, true)) extras_.map_ahead(0, kMappedFront / sizeof(FlowExtra));
    bindings_.map_ahead(slots.first, slots.count);
  }
  [[nodiscard]] const flow::FlowTable& table() const { return table_; }
  [[nodiscard]] const TranslatorCounters& counters() const { return counters_; }

 private:
  // The whole of what one packet, or the pieces of one datagram, is translated with.
  struct Call {
    PolicyView policies;
    Now now;
    flow::Tick tick;
    Outcomes* out;
  };
  struct Datagram {
    std::span<Packet* const> pieces;     // one, or all fragments in order
    std::uint16_t transport_length = 0;  // of the whole; 0: one unfragmented packet
  };
  // Why a flow could not be used.
  struct Refusal {
    DropReason reason = DropReason::none;
    bool wait = false;
  };

  // burst.cc
  void up_whole(const Call& call, Packet& packet);
  void down_whole(const Call& call, Packet& packet);
  void begin_call(const Call& call, std::size_t count);
  void end_call(const Call& call, Outcomes& out);
  // The short way (fast_path.h). False: not for this packet; nothing has been changed.
  [[gnu::always_inline]] bool up_fast(const Call& call, Packet& packet, flow::Slot slot);
  [[gnu::always_inline]] bool down_fast(const Call& call, Packet& packet, flow::Slot slot);
  // first.cc
  // Judges first packets and fetches what setting up their flows will need. Their keys are filled in.
  void foresee(const Call& call, std::span<FirstPacket> firsts);
  bool up_first(const Call& call, Packet& packet, const FirstPacket& first, std::uint64_t hash);

  // burst.cc
  // Whether a plain packet changes nothing but counters of its flow, which may go on.
  [[nodiscard, gnu::always_inline]] bool fit(const Call& call, const Packet& packet,
                                             const flow::FlowRecord& record) const;
  [[gnu::always_inline]] void count_plain(const Call& call, flow::Slot slot, std::uint64_t flow::FlowRecord::*counter);

  // up.cc
  void up_one(const Call& call, Packet& packet, const Classified& what, std::uint64_t hash);
  void up_fragment(const Call& call, Packet& packet, const Classified& what);
  void up_query(const Call& call, const Datagram& datagram, const Classified& what, std::uint64_t hash);
  void up_error(const Call& call, Packet& packet, const Classified& what);
  // down.cc
  void down_one(const Call& call, Packet& packet, const Classified& what, std::uint16_t source, std::uint64_t hash);
  void down_fragment(const Call& call, Packet& packet, const Classified& what, std::uint16_t source);
  void down_query(const Call& call, const Datagram& datagram, const Classified& what, std::uint16_t source,
                  std::uint64_t hash);
  void down_error(const Call& call, Packet& packet, const Classified& what);

  // A collected ICMP error, joined to one packet.
  Packet* join(const Call& call, const Datagram& datagram);
  // Parses the first piece of a collected datagram.
  [[nodiscard]] static Classified classify_collected(const Datagram& datagram, bool down);

  // flows.cc
  [[nodiscard]] static const policy::PeerPolicy* policy_of(const Call& call, PeerIndex peer) {
    return peer < call.policies.size() ? call.policies[peer].load(std::memory_order_acquire) : nullptr;
  }
  // What a flow's ends say about it; the rest is zero.
  [[nodiscard]] static flow::FlowRecord record_of(const flow::InsideKey& key, const Endpoint& remote);
  // `hash`: of the key. `first`: what is known of it already, judged by this policy; nullptr: nothing.
  flow::Slot open_flow(const Call& call, const policy::PeerPolicy& policy, const flow::InsideKey& key,
                       std::uint64_t hash, const FirstPacket* first, Refusal& refusal);
  // Into the table and out of it, with all that hangs on it. kNoSlot: the table is full.
  flow::Slot put_in(const Call& call, const flow::FlowRecord& record) {
    return put_in(call, record, table_.hash(record.inside_key()));
  }
  flow::Slot put_in(const Call& call, const flow::FlowRecord& record, std::uint64_t hash);
  void take_out(flow::Slot slot);

  // destination.cc
  [[nodiscard]] Candidates candidates_of(const Call& call, const policy::PeerPolicy& policy, std::uint32_t translation,
                                         const flow::InsideKey& key) const;
  // `first`: as for open_flow.
  [[nodiscard]] Refusal find_destination(const Call& call, const policy::PeerPolicy& policy, const flow::InsideKey& key,
                                         const FirstPacket* first, policy::Verdict& verdict) const;

  // failover.cc
  [[nodiscard]] Candidates alternatives_of(const Call& call, const flow::FlowRecord& record) const;
  void begin_opening(const Call& call, flow::Slot slot, Bytes syn);
  void end_opening(flow::Slot slot);
  bool move_flow(const Call& call, flow::Slot slot, const IpAddress& to);
  bool try_next(const Call& call, flow::Slot slot, bool refused);
  void send_kept(const Call& call, const Opening& opening);
  bool answer_to_opening(const Call& call, flow::Slot slot, Bytes segment);
  bool error_moves_flow(const Call& call, flow::Slot slot, Bytes message, bool v6);
  void expire_openings(const Call& call);
  void give_out_spent(Outcomes& out);
  void look_whether_left(const Call& call, flow::Slot slot);
  [[nodiscard]] bool moves_on(const Call& call, flow::Slot slot) const;

  // unsolicited.cc
  [[nodiscard]] IpAddress inside_name_of(const policy::PeerPolicy& policy, bool inside6, const IpAddress& remote) const;
  // A new flow for a packet from outside; kNoSlot: it may not come in.
  flow::Slot admit(const Call& call, const Classified& what, std::uint16_t source, Bytes transport);
  // What no flow and no binding waits for.
  void turn_away(const Call& call, const Datagram& datagram, const Classified& what);
  void expire_unsolicited(const Call& call);

  // hairpin.cc
  [[nodiscard]] bool turns_around(const IpAddress& destination) const {
    return config_.hairpinning && source_index(destination).has_value();
  }
  // Every packet to the LAN but those of the fast path goes out here.
  void to_lan(const Call& call, Packet& packet);
  // Deals with those of them that are for our own source addresses.
  void turn_back(const Call& call);

  // flows.cc
  // False when the flow's right has gone; then the flow has ended.
  bool still_allowed(const Call& call, flow::Slot slot);
  void touch(const Call& call, flow::Slot slot, bool from_inside, Bytes transport);
  void end_flow(flow::Slot slot);
  void leave_home(PeerIndex peer);
  void age(const Call& call, std::uint32_t budget);
  [[nodiscard]] flow::Tick lifetime(const flow::FlowRecord& record) const;

  // outside.cc
  [[nodiscard]] const IpAddress& source_address(const flow::FlowRecord& record) const;
  [[nodiscard]] PortSpace& space(std::uint8_t protocol, bool v6, std::uint16_t address);
  [[nodiscard]] std::uint64_t outside_hash(const flow::FlowRecord& record) const;
  [[nodiscard]] bool takes_too_much(PeerIndex peer, const PortSpace& ports, std::size_t addresses) const;
  bool assign_own_source(flow::FlowRecord& record);
  template <typename Taken>
  std::optional<std::uint16_t> choose_landing(const flow::FlowRecord& record, const IpAddress& local, PortSpace& ports,
                                              std::uint16_t proposed, bool too_much, Taken&& taken);
  bool assign_from_pool(flow::FlowRecord& record, std::uint16_t proposed);
  // Where replies of a new flow come to depends on its port, and is known; otherwise nullptr.
  [[nodiscard]] const ReplySteering* steering_for(std::uint8_t protocol, bool v6) const {
    return config_.steering != nullptr && config_.workers > 1 && config_.steering->covers(protocol, v6) ? config_.steering
                                                                                                        : nullptr;
  }
  // RFC 4787 REQ-2, RFC 7857 §4: one peer appears under one address, as long as that has ports.
  [[nodiscard]] static std::size_t preferred_address(PeerIndex peer, std::size_t addresses) {
    return addresses == 1 ? 0 : (peer * std::size_t{0x9e3779b1}) % addresses;
  }
  // Chooses our side of a flow that is not in the table: source address and port, and the checksum differences that go
  // with them. False: there is none left. `proposed`: PortSpace::propose.
  bool assign_outside(flow::FlowRecord& record, std::uint16_t proposed = 0);
  // For a flow in the table: what was chosen is used, or given back. False: the flow's binding has others besides.
  bool acquire_outside(flow::Slot slot);
  bool release_outside(flow::Slot slot);
  void record_binding(const flow::FlowRecord& record, bool begins) const;
  // Whether the protocol's ports are mapped independently of the endpoint.
  [[nodiscard]] bool mapped_for_all(std::uint8_t protocol) const;
  // Whether new flows of a client's port share one of ours. Bindings may be there when they do not, from before.
  [[nodiscard]] bool maps_for_all() const {
    return config_.mapping == Mapping::endpoint_independent && bindings_.on();
  }
  // Whether others than those a client has sent to may send to its ports.
  [[nodiscard]] bool open_to_others() const {
    return maps_for_all() && config_.filtering != Filtering::address_and_port_dependent;
  }
  // What the site has said since the last call (site_settings.h).
  void take_site_settings() {
    if (config_.site != nullptr && config_.site->word() != site_word_) apply_site_settings(config_.site->word());
  }
  void apply_site_settings(SharedSiteSettings::Word word);

  // handover.cc
  [[nodiscard]] bool outside_is_free(const flow::FlowRecord& record);

  // narrow.cc
  // Sets marks (flow_mark) and gives the flow's entry beside the table, zeroed when these are its first.
  FlowExtra& mark(flow::Slot slot, std::uint8_t bits);
  void unmark(flow::Slot slot, std::uint8_t bits);
  [[nodiscard]] std::uint16_t mtu_of_way(const Call& call, flow::Slot slot, bool outside);
  void narrow(const Call& call, flow::Slot slot, bool outside, std::uint16_t mtu);
  void learn_path_mtu(const Call& call, flow::Slot slot, const PathMtuReport& report, bool outside);

  // answers.cc
  void drop(const Call& call, Packet& packet, DropReason reason) const;
  void drop(const Call& call, const Datagram& datagram, DropReason reason) const;
  // Drops, and tells the sender in the tunnel or on the LAN why, where that is due. `value`: MTU or pointer.
  void refuse_up(const Call& call, const Datagram& datagram, const IpView& view, DropReason reason, IcmpProblem problem,
                 std::uint32_t value = 0);
  void refuse_down(const Call& call, const Datagram& datagram, const IpView& view, DropReason reason,
                   IcmpProblem problem, std::uint32_t value = 0);
  void reset_up(const Call& call, const Datagram& datagram, const IpView& view);
  // The verdict on all pieces together: too big when one of them is.
  [[nodiscard]] Fitting fit_datagram(const Datagram& datagram, const IpView& view, bool to6, std::uint16_t mtu) const;
  // Translates every piece and sends it on, cut to `limit` (0: it fits). `view`: of the first.
  void forward(const Call& call, const Datagram& datagram, const IpView& view, const Rewrite& rewrite,
               const HeaderOptions& options, Action action, PeerIndex peer, flow::Slot slot, std::uint16_t limit);
  void hand_over(const Call& call, const Datagram& datagram, std::uint16_t owner) const;
  [[nodiscard]] MtuContext mtu_context(const flow::FlowRecord& record, const Quoted& quoted) const;
  void give_out_refused(Outcomes& out);
  // Workers share the addresses: each has its own residue.
  [[nodiscard]] std::uint16_t next_identification() {
    const unsigned next = unsigned{identification_} + config_.workers;
    identification_ = static_cast<std::uint16_t>(next <= 0xffff ? next : config_.worker);
    return identification_;
  }

  [[nodiscard]] flow::Tick tick_of(Instant now) const;
  [[nodiscard]] Instant instant_of(flow::Tick tick) const;
  [[nodiscard]] std::uint16_t owner_of(const Classified& what, const Packet& packet, bool down) const;

  TranslatorConfig config_;
  PacketSource* packets_;
  BufferedRandom random_;
  std::vector<std::pair<IpAddress, std::uint16_t>> sources_;  // sorted; index within the family
  policy::SourceNat source_nat_;
  SharedSiteSettings::Word site_word_ = 0;
  bool own_sources_;  // clients appear as they are, or did once
  policy::ForbiddenDestinations forbidden_;
  flow::FlowTable table_;
  flow::ZeroedArray<FlowExtra> extras_;  // by slot; see flow_extra.h
  bool extras_mapped_ = false;           // the front of them, by map_ahead()
  PathMtuCache path_mtus_;
  BindingTable bindings_;  // off unless the mapping is endpoint-independent, or may become so
  FailedAddresses failed_;
  Openings openings_;
  UnsolicitedSyns unsolicited_;
  std::vector<Packet*> turned_;  // on their way from a client to another one
  std::vector<Packet*> spent_;  // kept SYNs that are not needed any more, to be given out as drops
  flow::Slot orphan_cursor_ = 0;   // end_orphans
  std::vector<PortSpace> spaces_;  // by family, address, protocol
  std::uint32_t active_peers_ = 0;  // that have a flow
  RateLimiter limiter_inside_;
  RateLimiter limiter_outside_;
  FragmentCollector fragments_;
  std::vector<Packet*> cut_;             // pieces under way
  std::atomic<std::int64_t> start_{-1};  // of ticks
  std::uint16_t identification_;
  TranslatorCounters counters_;
  WallTime wall_{};  // of the last call, for the log
};

// Fills in the missing UDP checksum of an IPv4 datagram that comes in pieces. False: malformed.
[[nodiscard]] bool fill_udp_checksum(std::span<Packet* const> pieces, std::uint16_t payload_length);

}  // namespace penstock::nat
