// From the tunnels to the LAN.
#include "dataplane/core/nat/mss.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

void Translator::Implementation::up_one(const Call& call, Packet& packet, const Classified& what, std::uint64_t hash) {
  if (what.kind == PacketKind::refused) return drop(call, packet, what.reason);
  const std::uint16_t owner = owner_of(what, packet, false);
  if (owner != config_.worker) {
    call.out->add({&packet, Action::handover, DropReason::none, owner});
    return;
  }
  Packet* const alone[] = {&packet};
  const Datagram datagram{alone, 0};
  const policy::PeerPolicy* policy = policy_of(call, packet.peer);
  if (policy == nullptr || !policy->source_allowed(what.tuple.source))
    return drop(call, packet, DropReason::inner_source_not_allowed);
  const IpView& view = what.view;
  if (view.ttl <= 1) return refuse_up(call, datagram, view, DropReason::hop_limit_exceeded, IcmpProblem::time_exceeded);
  // RFC 7915 §4.1, §5.1: a route given by the sender is not followed.
  if (view.source_route != 0)
    return refuse_up(call, datagram, view, DropReason::nat_untranslatable, IcmpProblem::source_route_failed);
  if (view.routing_header != 0)
    return refuse_up(call, datagram, view, DropReason::nat_untranslatable, IcmpProblem::routing_header,
                     view.routing_header + 3U);
  switch (what.kind) {
    case PacketKind::query:
      return up_query(call, datagram, what, hash);
    case PacketKind::error:
      return up_error(call, packet, what);
    case PacketKind::fragment:
      return up_fragment(call, packet, what);
    case PacketKind::other:
    case PacketKind::refused:
      break;
  }
  if (what.reason != DropReason::none) return drop(call, packet, what.reason);
  refuse_up(call, datagram, view, DropReason::nat_protocol_unsupported, IcmpProblem::protocol_unreachable);
}

void Translator::Implementation::up_fragment(const Call& call, Packet& packet, const Classified& what) {
  const FragmentKey key{what.tuple.source, what.tuple.destination, packet.peer, what.view.identification,
                        what.view.protocol};
  const auto added = fragments_.add(&packet, what.view, key, call.now.monotonic);
  if (added.reason != DropReason::none) return drop(call, packet, added.reason);
  if (added.complete.empty()) return;
  const Datagram datagram{added.complete, added.payload_length};
  const Classified whole = classify_collected(datagram, false);
  if (whole.kind == PacketKind::error) {
    Packet* joined = join(call, datagram);
    if (joined != nullptr) up_one(call, *joined, classify(*joined, false), 0);
    return;
  }
  if (whole.kind != PacketKind::query)
    return drop(call, datagram, whole.reason != DropReason::none ? whole.reason : DropReason::nat_fragment_unsupported);
  const std::uint16_t owner = owner_of(whole, *datagram.pieces.front(), false);
  if (owner != config_.worker) return hand_over(call, datagram, owner);
  const Tuple& t = whole.tuple;
  up_query(call, datagram, whole,
           table_.hash(flow::InsideKey{t.source, t.destination, packet.peer, t.source_port, t.destination_port,
                                       whole.protocol}));
}

void Translator::Implementation::up_query(const Call& call, const Datagram& datagram, const Classified& what,
                                          std::uint64_t hash) {
  Packet& first = *datagram.pieces.front();
  const IpView& view = what.view;
  const flow::InsideKey key{what.tuple.source,      what.tuple.destination,      first.peer,
                            what.tuple.source_port, what.tuple.destination_port, what.protocol};
  const Bytes transport = Bytes{first.bytes()}.subspan(view.header_length);
  flow::Slot slot = table_.find(key, hash);
  if (slot != flow::kNoSlot && moves_on(call, slot)) {
    ++counters_.flows_moved;
    end_flow(slot);
    slot = flow::kNoSlot;
  }
  if (slot != flow::kNoSlot && !still_allowed(call, slot))
    return refuse_up(call, datagram, view, DropReason::policy_revoked, IcmpProblem::prohibited);
  if (slot == flow::kNoSlot && what.answers_inward) return drop(call, datagram, DropReason::icmp_type_unsupported);
  if (slot == flow::kNoSlot) {
    if (what.protocol == ip_protocol::tcp && !tcp_begins(transport[13])) return reset_up(call, datagram, view);
    Refusal refusal;
    const policy::PeerPolicy* policy = policy_of(call, first.peer);
    slot = open_flow(call, *policy, key, hash, nullptr, refusal);
    if (slot == flow::kNoSlot) {
      if (!refusal.wait) return refuse_up(call, datagram, view, refusal.reason, problem_of(refusal.reason, view.v6()));
      for (Packet* piece : datagram.pieces) call.out->add({piece, Action::wait, refusal.reason, 0});
      return;
    }
  }
  // A name with several addresses: until one of them answers, the SYN is kept. One that the client sends again after a
  // whole round in silence begins the next round.
  if (what.protocol == ip_protocol::tcp && tcp_begins(transport[13]) && !view.fragment() &&
      table_[slot].state == static_cast<std::uint8_t>(TcpState::init) && table_[slot].packets_down == 0 &&
      (table_[slot].flags & flow_mark::opening) == 0)
    begin_opening(call, slot, {first.data, first.length});
  const flow::FlowRecord& record = table_[slot];
  const bool inside6 = record.inside_source.is_v6();
  const bool outside6 = record.remote.is_v6();

  // RFC 7915 §5.1.1
  if (inside6 && !outside6 && view.extension_behind_fragment)
    return refuse_up(call, datagram, view, DropReason::nat_untranslatable, IcmpProblem::prohibited);
  const Fitting fitting = fit_datagram(datagram, view, outside6, mtu_of_way(call, slot, true));
  if (fitting.fit == Fit::too_big)
    return refuse_up(call, datagram, view, DropReason::too_big, IcmpProblem::too_big, fitting.tell);

  touch(call, slot, true, transport);
  if (what.protocol == ip_protocol::tcp && (transport[13] & tcp_flag::syn) != 0 && !view.fragment())
    // What the other side sends must fit the tunnel once it is translated.
    clamp_mss(first.bytes().subspan(view.header_length),
              static_cast<std::uint16_t>(mtu_of_way(call, slot, false) - (inside6 ? 60 : 40)));
  if (datagram.pieces.size() > 1 && !inside6 && outside6 && what.protocol == ip_protocol::udp &&
      !fill_udp_checksum(datagram.pieces, datagram.transport_length))
    return drop(call, datagram, DropReason::transport_malformed);

  Rewrite rewrite;
  rewrite.to = {source_address(record), record.remote, record.source_port, record.remote_port};
  rewrite.delta = record.up_delta;
  HeaderOptions options;
  options.transport_length = datagram.transport_length;
  // RFC 6864 §4, RFC 7857 §10: behind one address, identifications of several peers must not meet.
  options.set_identification = config_.rewrite_identification || (inside6 && !view.has_fragment_header);
  if (options.set_identification) options.identification = next_identification();
  counters_.translated_up += datagram.pieces.size();
  forward(call, datagram, view, rewrite, options, Action::to_outside, first.peer, slot, fitting.limit);
}

void Translator::Implementation::up_error(const Call& call, Packet& packet, const Classified& what) {
  const Quoted quoted = parse_quoted(packet.bytes(), what.view);
  if (!quotes_a_flow(quoted)) return drop(call, packet, quoted.reason);
  // The quoted packet came down to the peer: its source is our destination.
  const Tuple t = of_client(quoted, false);
  const flow::InsideKey key{t.destination, t.source, packet.peer, t.destination_port, t.source_port, quoted.protocol};
  const flow::Slot slot = table_.find(key, table_.hash(key));
  if (slot == flow::kNoSlot || what.tuple.destination != t.source)
    return drop(call, packet, DropReason::icmp_error_unmatched);
  if (!still_allowed(call, slot)) return drop(call, packet, DropReason::policy_revoked);
  const flow::FlowRecord& record = table_[slot];
  ErrorRewrite rewrite;
  rewrite.source = source_address(record);
  rewrite.destination = record.remote;
  rewrite.quoted.to = {record.remote, source_address(record), record.remote_port, record.source_port};
  rewrite.quoted.delta = transport_delta(t, rewrite.quoted.to, quoted.protocol, true);
  rewrite.mtu = mtu_context(record, quoted);
  rewrite.identification = next_identification();
  rewrite.limit = config_.mtu_outside;
  const PathMtuReport report = path_mtu_report(packet.bytes(), what.view, quoted);
  const DropReason reason = translate_icmp_error(packet, what.view, quoted, rewrite);
  if (reason != DropReason::none) return drop(call, packet, reason);
  ++counters_.icmp_errors_translated;
  learn_path_mtu(call, slot, report, false);
  packet.flow = slot + 1;
  to_lan(call, packet);
}

}  // namespace penstock::nat
