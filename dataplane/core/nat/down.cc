// From the LAN back to the tunnels.
#include "dataplane/core/nat/mss.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

// RFC 6791 §3.1: the address of the pool that stands for an IPv6 router; FNV-1a of its address says which.
IpAddress pooled(const Prefix& pool, const IpAddress& router) {
  std::uint32_t hash = 2166136261U;
  for (const std::uint8_t byte : router.bytes()) hash = (hash ^ byte) * 16777619U;
  hash ^= hash >> 16;
  const std::uint32_t host_bits = pool.length() == 0 ? 0xffffffffU : (std::uint32_t{1} << (32 - pool.length())) - 1;
  return IpAddress::v4(pool.address().v4_value() | (hash & host_bits));
}

}  // namespace

void Translator::Implementation::down_one(const Call& call, Packet& packet, const Classified& what,
                                          std::uint16_t source, std::uint64_t hash) {
  const std::uint16_t owner = owner_of(what, packet, true);
  if (owner != config_.worker) {
    call.out->add({&packet, Action::handover, DropReason::none, owner});
    return;
  }
  Packet* const alone[] = {&packet};
  switch (what.kind) {
    case PacketKind::query:
      return down_query(call, {alone, 0}, what, source, hash);
    case PacketKind::error:
      return down_error(call, packet, what);
    case PacketKind::fragment:
      return down_fragment(call, packet, what, source);
    case PacketKind::other:
    case PacketKind::refused:
      break;
  }
  call.out->add({&packet, Action::not_ours, DropReason::flow_none, 0});
}

void Translator::Implementation::down_fragment(const Call& call, Packet& packet, const Classified& what,
                                               std::uint16_t source) {
  const FragmentKey key{what.tuple.source, what.tuple.destination, kNoPeer, what.view.identification,
                        what.view.protocol};
  const auto added = fragments_.add(&packet, what.view, key, call.now.monotonic);
  if (added.reason != DropReason::none) return drop(call, packet, added.reason);
  if (added.complete.empty()) return;
  const Datagram datagram{added.complete, added.payload_length};
  const Classified whole = classify_collected(datagram, true);
  if (whole.kind == PacketKind::refused) return drop(call, datagram, whole.reason);
  if (whole.kind == PacketKind::error) {
    Packet* joined = join(call, datagram);
    if (joined != nullptr) down_one(call, *joined, classify(*joined, true), source, 0);
    return;
  }
  if (whole.kind != PacketKind::query) {
    for (Packet* piece : datagram.pieces) call.out->add({piece, Action::not_ours, DropReason::flow_none, 0});
    return;
  }
  const std::uint16_t owner = owner_of(whole, *datagram.pieces.front(), true);
  if (owner != config_.worker) return hand_over(call, datagram, owner);
  const Tuple& t = whole.tuple;
  down_query(call, datagram, whole, source,
             table_.hash(flow::OutsideKey{t.destination, t.source, t.destination_port, t.source_port, whole.protocol}));
}

void Translator::Implementation::down_query(const Call& call, const Datagram& datagram, const Classified& what,
                                            std::uint16_t source, std::uint64_t hash) {
  Packet& first = *datagram.pieces.front();
  const IpView& view = what.view;
  const Tuple& t = what.tuple;
  const Bytes transport = Bytes{first.bytes()}.subspan(view.header_length);
  flow::Slot slot = table_.find(
      flow::OutsideKey{t.destination, t.source, t.destination_port, t.source_port, what.protocol}, source, hash);
  if (slot == flow::kNoSlot) slot = admit(call, what, source, transport);
  if (slot == flow::kNoSlot || (what.answers_inward && !open_to_others())) return turn_away(call, datagram, what);
  if (!still_allowed(call, slot)) return drop(call, datagram, DropReason::policy_revoked);
  if (view.ttl <= 1)
    return refuse_down(call, datagram, view, DropReason::hop_limit_exceeded, IcmpProblem::time_exceeded);
  if (view.source_route != 0)
    return refuse_down(call, datagram, view, DropReason::nat_untranslatable, IcmpProblem::source_route_failed);
  if (view.routing_header != 0)
    return refuse_down(call, datagram, view, DropReason::nat_untranslatable, IcmpProblem::routing_header,
                       view.routing_header + 3U);

  const flow::FlowRecord& record = table_[slot];
  const bool inside6 = record.inside_source.is_v6();
  const bool outside6 = record.remote.is_v6();
  const Fitting fitting = fit_datagram(datagram, view, inside6, mtu_of_way(call, slot, false));
  if (fitting.fit == Fit::too_big)
    return refuse_down(call, datagram, view, DropReason::too_big, IcmpProblem::too_big, fitting.tell);

  if ((record.flags & flow_mark::opening) != 0 && answer_to_opening(call, slot, transport))
    return drop(call, datagram, DropReason::local_consumed);
  if ((record.flags & flow_mark::left) != 0) extras_[slot].heard = call.tick;
  touch(call, slot, false, transport);
  if (what.protocol == ip_protocol::tcp && (transport[13] & tcp_flag::syn) != 0 && !view.fragment()) {
    const int room =
        std::min<int>(config_.mtu_inside - (inside6 ? 60 : 40), mtu_of_way(call, slot, true) - (outside6 ? 60 : 40));
    clamp_mss(first.bytes().subspan(view.header_length), static_cast<std::uint16_t>(room));
  }
  if (datagram.pieces.size() > 1 && !outside6 && inside6 && what.protocol == ip_protocol::udp &&
      !fill_udp_checksum(datagram.pieces, datagram.transport_length))
    return drop(call, datagram, DropReason::transport_malformed);

  Rewrite rewrite;
  rewrite.to = {record.inside_destination, record.inside_source, record.inside_destination_port,
                record.inside_source_port};
  rewrite.delta = record.down_delta;
  HeaderOptions options;
  options.transport_length = datagram.transport_length;
  options.set_identification = outside6 && !inside6 && !view.has_fragment_header;
  if (options.set_identification) options.identification = next_identification();
  counters_.translated_down += datagram.pieces.size();
  forward(call, datagram, view, rewrite, options, Action::to_inside, record.peer, slot, fitting.limit);
}

void Translator::Implementation::down_error(const Call& call, Packet& packet, const Classified& what) {
  const Quoted quoted = parse_quoted(packet.bytes(), what.view);
  if (!quotes_a_flow(quoted)) {
    // May concern a packet of the gateway's own.
    call.out->add({&packet, Action::not_ours, quoted.reason, 0});
    return;
  }
  const Tuple t = of_client(quoted, true);
  const auto source = source_index(t.source);
  const flow::OutsideKey key{t.source, t.destination, t.source_port, t.destination_port, quoted.protocol};
  const flow::Slot slot = source ? table_.find(key, *source, table_.hash(key)) : flow::kNoSlot;
  if (slot == flow::kNoSlot || what.tuple.destination != t.source) {
    call.out->add({&packet, Action::not_ours, DropReason::icmp_error_unmatched, 0});
    return;
  }
  if (!still_allowed(call, slot)) return drop(call, packet, DropReason::policy_revoked);
  if (what.view.ttl <= 1) return drop(call, packet, DropReason::hop_limit_exceeded);
  if (error_moves_flow(call, slot, Bytes{packet.bytes()}.subspan(what.view.header_length), what.view.v6()))
    return drop(call, packet, DropReason::local_consumed);
  const flow::FlowRecord& record = table_[slot];
  const bool inside6 = record.inside_source.is_v6();
  ErrorRewrite rewrite;
  rewrite.destination = record.inside_source;
  if (what.tuple.source == record.remote) {
    rewrite.source = record.inside_destination;
  } else if (inside6 == what.tuple.source.is_v6()) {
    rewrite.source = what.tuple.source;  // a router on the way, as it is
  } else {
    rewrite.source =
        inside6 ? policy::embed_v4(config_.hop_prefix, what.tuple.source)
                : pooled(config_.hop_pool_v4, what.tuple.source);
  }
  rewrite.quoted.to = {record.inside_source, record.inside_destination, record.inside_source_port,
                       record.inside_destination_port};
  rewrite.quoted.delta = transport_delta(t, rewrite.quoted.to, quoted.protocol, true);
  rewrite.mtu = mtu_context(record, quoted);
  const PathMtuReport report = path_mtu_report(packet.bytes(), what.view, quoted);
  rewrite.identification = next_identification();
  rewrite.limit = config_.mtu_inside;
  const PeerIndex peer = record.peer;
  const DropReason reason = translate_icmp_error(packet, what.view, quoted, rewrite);
  if (reason != DropReason::none) return drop(call, packet, reason);
  ++counters_.icmp_errors_translated;
  learn_path_mtu(call, slot, report, true);
  packet.peer = peer;
  packet.flow = slot + 1;
  call.out->add({&packet, Action::to_inside, DropReason::none, 0});
}

}  // namespace penstock::nat
