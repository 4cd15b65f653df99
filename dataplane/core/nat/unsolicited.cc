// Packets from outside to a port that an endpoint-independent mapping has opened, of no flow yet (RFC 4787 §5, RFC 6146
// §3.5): whether the filter lets them in, and as what they appear inside.
//
// Whoever comes in must be somebody to whom the client may send: the policy is asked as if it had. With address-dependent
// filtering the client must have a flow from this port to the same address; with endpoint-independent filtering anybody
// will do whom the policy knows, by an address of its own or as one of a name's.
//
// Also what becomes of those that may not come in, and bindings that are there without a flow.
#include <algorithm>

#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

bool has(const std::vector<IpAddress>& list, const IpAddress& address) {
  return std::find(list.begin(), list.end(), address) != list.end();
}

}  // namespace

// What the client knows `remote` as; unspecified: nothing that it may speak to.
IpAddress Translator::Implementation::inside_name_of(const policy::PeerPolicy& policy, bool inside6,
                                                     const IpAddress& remote) const {
  for (const policy::Translation& name : policy.translations) {
    const IpAddress& proxy = inside6 ? name.proxy_v6 : name.proxy_v4;
    if (name.state != policy::TranslationState::active || proxy.is_unspecified()) continue;
    if (has(name.real_v4, remote) || has(name.real_v6, remote)) return proxy;
  }
  return remote.is_v6() == inside6 ? remote : IpAddress{};
}

flow::Slot Translator::Implementation::admit(const Call& call, const Classified& what, std::uint16_t source,
                                             Bytes transport) {
  const Tuple& t = what.tuple;
  const bool outside6 = t.source.is_v6();
  if (!open_to_others() || source == flow::kOwnSource || !has_ports(what.protocol))
    return flow::kNoSlot;
  if (what.protocol == ip_protocol::tcp && !tcp_begins(transport[13])) return flow::kNoSlot;
  const BindingTable::Index index =
      bindings_.find_outside(source, outside6, t.destination_port, what.protocol);
  if (index == BindingTable::kNone) return flow::kNoSlot;
  const Binding binding = bindings_[index];
  const policy::PeerPolicy* policy = policy_of(call, binding.peer);
  if (policy == nullptr) return flow::kNoSlot;

  flow::FlowRecord record{};
  const flow::Slot known = bindings_.find_flow(index, [&](flow::Slot slot) { return table_[slot].remote == t.source; });
  if (known != flow::kNoSlot) {
    record.inside_destination = table_[known].inside_destination;
  } else if (config_.filtering == Filtering::endpoint_independent) {
    record.inside_destination = inside_name_of(*policy, binding.inside.is_v6(), t.source);
  }
  if (record.inside_destination.is_unspecified()) return flow::kNoSlot;
  const policy::Verdict verdict =
      policy->judge(record.inside_destination, what.protocol, t.source_port, source_nat_, call.now.wall);
  if (verdict.reason != DropReason::none) return flow::kNoSlot;
  record.translation_tag = policy->translation_tag(verdict.translation);
  if (record.translation_tag == 0 && (verdict.destination != t.source || forbidden_.contains(t.source)))
    return flow::kNoSlot;
  if (table_.peer_flows(binding.peer) >= config_.max_flows_per_peer) return flow::kNoSlot;

  record.inside_source = binding.inside;
  record.inside_source_port = binding.inside_port;
  record.inside_destination_port = t.source_port;
  record.peer = binding.peer;
  record.protocol = what.protocol;
  record.translation = translation_of(binding.inside.is_v6(), outside6);
  record.state = static_cast<std::uint8_t>(TcpState::incoming);
  record.policy_epoch = policy->epoch;
  record.expires = expiry_of(verdict);
  record.last_seen = call.tick;
  record.remote = t.source;
  record.remote_port = t.source_port;
  // The client may know two addresses by one name and speak to the other one from this port.
  const flow::InsideKey inside = record.inside_key();
  if (table_.find(inside, table_.hash(inside)) != flow::kNoSlot) return flow::kNoSlot;
  if (!assign_outside(record) || record.source_address != source || record.source_port != t.destination_port)
    return flow::kNoSlot;
  const flow::Slot slot = put_in(call, record);
  if (slot != flow::kNoSlot) ++counters_.flows_created;
  return slot;
}

void Translator::Implementation::turn_away(const Call& call, const Datagram& datagram, const Classified& what) {
  const bool whole = datagram.pieces.size() == 1;
  if (config_.unsolicited == Unsolicited::answer && what.kind == PacketKind::query) {
    Packet& packet = *datagram.pieces.front();
    const IpView& view = what.view;
    if (what.protocol == ip_protocol::tcp && whole) {
      const std::uint8_t flags = packet.data[view.header_length + 13];
      if (tcp_begins(flags) && unsolicited_.keep(&packet, call.now.monotonic + config_.timers.tcp_incoming)) return;
    } else if (what.protocol == ip_protocol::udp) {
      return refuse_down(call, datagram, view, DropReason::flow_none, IcmpProblem::port_unreachable);
    }
  }
  // trap: nat-12: never further in; whether it is for the gateway itself others decide
  for (Packet* piece : datagram.pieces) call.out->add({piece, Action::not_ours, DropReason::flow_none, 0});
}

void Translator::Implementation::expire_unsolicited(const Call& call) {
  while (unsolicited_.poll_timeout() <= call.now.monotonic) {
    Packet* syn = unsolicited_.take();
    const Classified what = classify(*syn, true);
    const Tuple& t = what.tuple;
    const auto source = source_index(t.destination);
    const flow::OutsideKey key{t.destination, t.source, t.destination_port, t.source_port, what.protocol};
    Packet* const alone[] = {syn};
    if (source && table_.find(key, *source, table_.hash(key)) != flow::kNoSlot) {
      // The client has opened from its side meanwhile: dropped silently.
      drop(call, {alone, 0}, DropReason::local_consumed);
    } else {
      refuse_down(call, {alone, 0}, what.view, DropReason::flow_none, IcmpProblem::port_unreachable);
    }
  }
}

bool Translator::Implementation::add_binding(PeerIndex peer, std::uint8_t protocol, const Endpoint& inside,
                                             const Endpoint& outside) {
  const auto source = source_index(outside.address);
  if (!mapped_for_all(protocol) || !source || *source == flow::kOwnSource) return false;
  const bool v6 = outside.address.is_v6();
  if (bindings_.find_outside(*source, v6, outside.port, protocol) != BindingTable::kNone) return false;
  PortSpace& ports = space(protocol, v6, *source);
  if (!ports.has(outside.port)) return false;
  flow::FlowRecord record{};
  record.inside_source = inside.address;
  record.inside_source_port = inside.port;
  record.peer = peer;
  record.protocol = protocol;
  record.remote = outside.address;  // of its family
  record.source_address = *source;
  record.source_port = outside.port;
  if (bindings_.find_inside(record) != BindingTable::kNone || !bindings_.pin(record)) return false;
  ports.acquired(outside.port, {}, 0);
  return true;
}

}  // namespace penstock::nat
