// Several addresses of one name: a flow that its address refuses, that is reported unreachable, or whose SYN is not
// answered in time goes on to the next by itself. Inside nothing is seen of it: the client's tuple stays, only our side
// of the flow is made anew, and the SYN that was kept is sent again. The refusal is passed on when all have failed.
#include <algorithm>

#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

// A flow whose address has left its name's set moves when the address has been silent for so long.
constexpr flow::Tick kSilence = static_cast<flow::Tick>((std::int64_t{30} * 1'000'000'000) >> flow::kTickShift);

bool says_unreachable(Bytes message, bool v6) {
  if (v6) return message[0] == icmp6::unreachable;
  constexpr std::uint8_t kFragmentationNeeded = 4;
  return message[0] == icmp4::unreachable && message[1] != kFragmentationNeeded;
}

}  // namespace

// The addresses that the flow's name has now, in this client's order. None when the flow belongs to no name any more.
Candidates Translator::Implementation::alternatives_of(const Call& call, const flow::FlowRecord& record) const {
  const policy::PeerPolicy* policy = policy_of(call, record.peer);
  if (policy == nullptr || record.translation_tag == 0) return {};
  const policy::Verdict verdict = policy->judge(record.inside_destination, record.protocol,
                                                record.inside_destination_port, source_nat_, call.now.wall);
  if (verdict.reason != DropReason::none || policy->translation_tag(verdict.translation) != record.translation_tag)
    return {};
  return candidates_of(call, *policy, verdict.translation, record.inside_key());
}

void Translator::Implementation::begin_opening(const Call& call, flow::Slot slot, Bytes syn) {
  const flow::FlowRecord& record = table_[slot];
  if (record.translation_tag == 0 || alternatives_of(call, record).count < 2) return;
  Packet* kept = packets_->allocate();
  if (kept == nullptr) return;
  if (!kept->append(static_cast<std::uint16_t>(syn.size()))) return drop(call, *kept, DropReason::local_consumed);
  std::memcpy(kept->data, syn.data(), syn.size());
  kept->peer = record.peer;
  const Openings::Index index = openings_.open(slot, kept, call.now.monotonic);
  if (index == Openings::kNone) return drop(call, *kept, DropReason::local_consumed);
  mark(slot, flow_mark::opening).opening = index;
}

void Translator::Implementation::end_opening(flow::Slot slot) {
  if ((table_[slot].flags & flow_mark::opening) == 0) return;
  spent_.push_back(openings_.close(extras_[slot].opening));
  unmark(slot, flow_mark::opening);
}

bool Translator::Implementation::move_flow(const Call& call, flow::Slot slot, const IpAddress& to) {
  flow::FlowRecord record = table_[slot];
  const FlowExtra extra = extras_[slot];
  take_out(slot);
  record.remote = to;
  record.translation = translation_of(record.inside_source.is_v6(), to.is_v6());
  record.state = static_cast<std::uint8_t>(TcpState::init);
  record.last_seen = call.tick;
  record.flags = static_cast<std::uint8_t>(record.flags & ~flow_mark::narrow);
  // The peer keeps its home meanwhile: for a moment it may have no flow, but this one is coming back.
  const flow::Slot again = assign_outside(record) ? put_in(call, record) : flow::kNoSlot;
  if (again == flow::kNoSlot) {
    leave_home(record.peer);
    return false;
  }
  extras_[again] = extra;
  if ((record.flags & flow_mark::opening) != 0) openings_[extra.opening].slot = again;
  return true;
}

// Our address has failed this flow, and there are no others: `refused` says whether it said no or said nothing.
bool Translator::Implementation::try_next(const Call& call, flow::Slot slot, bool refused) {
  const flow::FlowRecord& record = table_[slot];
  const Openings::Index index = extras_[slot].opening;
  Opening& opening = openings_[index];
  opening.refused = opening.refused || refused;
  failed_.add(record.remote, record.remote_port, record.protocol, call.now.monotonic);
  const IpAddress failed = record.remote;
  if (!opening.has_tried(failed) && opening.tried_count < Opening::kMaxTried)
    opening.tried[opening.tried_count++] = failed;
  if (opening.tried_count == Opening::kMaxTried) return false;
  const Candidates candidates = alternatives_of(call, record);
  for (std::size_t i = 0; i < candidates.count; ++i) {
    const IpAddress& next = candidates.addresses[i];
    if (opening.has_tried(next)) continue;
    if (!move_flow(call, slot, next)) {
      // Its place is gone: what the client sends again begins anew.
      spent_.push_back(openings_.close(index));
      return true;
    }
    ++counters_.flows_moved;
    openings_.wait_again(index, call.now.monotonic);
    send_kept(call, opening);
    return true;
  }
  return false;
}

void Translator::Implementation::send_kept(const Call& call, const Opening& opening) {
  Packet* packet = packets_->allocate();
  if (packet == nullptr) return;
  const Packet& syn = *opening.syn;
  packet->append(syn.length);
  std::memcpy(packet->data, syn.data, syn.length);
  packet->peer = syn.peer;
  packet->flags = packet_flag::from_tunnel;
  const Classified what = classify(*packet, false);
  Packet* const alone[] = {packet};
  const Tuple& t = what.tuple;
  up_query(call, {alone, 0}, what,
           table_.hash(flow::InsideKey{t.source, t.destination, packet->peer, t.source_port, t.destination_port,
                                       what.protocol}));
}

// A packet from the remote of a flow that is being opened. True: it was a refusal, and the flow has gone on elsewhere.
bool Translator::Implementation::answer_to_opening(const Call& call, flow::Slot slot, Bytes segment) {
  const flow::FlowRecord& record = table_[slot];
  const auto* tcp = view_as<TcpHeader>(segment);
  if (tcp == nullptr) return false;
  if ((tcp->flags & tcp_flag::rst) == 0) {
    if ((tcp->flags & tcp_flag::syn) == 0) return false;
    failed_.forget(record.remote, record.remote_port, record.protocol);
    end_opening(slot);
    return false;
  }
  // RFC 9293 §3.10.7.3: in SYN-SENT a reset must acknowledge the SYN; another is nobody's refusal and ends nothing.
  const Packet& syn = *openings_[extras_[slot].opening].syn;
  const IpView view = parse_ip(Bytes{syn.data, syn.length}).view;
  const auto* sent = view_as<TcpHeader>(Bytes{syn.data, syn.length}.subspan(view.header_length));
  const std::uint32_t data = view.payload_length() - sent->header_length();
  if ((tcp->flags & tcp_flag::ack) == 0 || tcp->acknowledgement.host() - sent->sequence.host() - 1 > data) return false;
  if (try_next(call, slot, true)) return true;
  end_opening(slot);
  return false;
}

// An ICMP error about a flow. True: it meant that the flow goes on elsewhere.
bool Translator::Implementation::error_moves_flow(const Call& call, flow::Slot slot, Bytes message, bool v6) {
  const flow::FlowRecord& record = table_[slot];
  if (record.translation_tag == 0 || !says_unreachable(message, v6)) return false;
  if ((record.flags & flow_mark::opening) != 0) {
    if (try_next(call, slot, true)) return true;
    end_opening(slot);
    return false;
  }
  if (record.protocol == ip_protocol::tcp) return false;
  // Without a connection there is nothing to keep: the next datagram finds another address, if there is a better one.
  failed_.add(record.remote, record.remote_port, record.protocol, call.now.monotonic);
  const Candidates candidates = alternatives_of(call, record);
  if (candidates.count == 0 || candidates.addresses[0] == record.remote ||
      failed_.contains(candidates.addresses[0], record.remote_port, record.protocol, call.now.monotonic))
    return false;
  ++counters_.flows_moved;
  end_flow(slot);
  return true;
}

void Translator::Implementation::expire_openings(const Call& call) {
  for (Openings::Index index = openings_.due(call.now.monotonic); index != Openings::kNone;
       index = openings_.due(call.now.monotonic)) {
    Opening& opening = openings_[index];
    const flow::Slot slot = opening.slot;
    if (try_next(call, slot, false)) continue;
    // The last one has some more time; then the refusals of the others count.
    if (++opening.turns < kLastAddressTurns) {
      openings_.wait_again(index, call.now.monotonic);
      continue;
    }
    const bool refused = opening.refused;
    Packet* syn = openings_.close(index);
    unmark(slot, flow_mark::opening);
    if (refused) {
      Packet* const alone[] = {syn};
      const IpView view = parse_ip(*syn).view;
      end_flow(slot);
      reset_up(call, {alone, 0}, view);
    } else {
      drop(call, *syn, DropReason::local_consumed);
    }
  }
  give_out_spent(*call.out);
}

void Translator::Implementation::give_out_spent(Outcomes& out) {
  for (Packet* packet : spent_) out.add({packet, Action::drop, DropReason::local_consumed, 0});
  spent_.clear();
}

// Ageing has come by: does the name still have the address of this flow?
void Translator::Implementation::look_whether_left(const Call& call, flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  if (record.protocol == ip_protocol::tcp || record.translation_tag == 0) return;
  const Candidates candidates = alternatives_of(call, record);
  if (candidates.count == 0) return;  // nothing better is known
  const auto* const end = candidates.addresses.data() + candidates.count;
  const bool left = std::find(candidates.addresses.data(), end, record.remote) == end;
  if (!left) {
    if ((record.flags & flow_mark::left) != 0) unmark(slot, flow_mark::left);
  } else if ((record.flags & flow_mark::left) == 0) {
    mark(slot, flow_mark::left).heard = call.tick;
  }
}

bool Translator::Implementation::moves_on(const Call& call, flow::Slot slot) const {
  return (table_[slot].flags & flow_mark::left) != 0 && call.tick - extras_[slot].heard > kSilence;
}

}  // namespace penstock::nat
