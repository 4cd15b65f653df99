// Flows: whether they may begin, with which port, whether they may go on, when they end.
#include <algorithm>

#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

flow::Tick ticks(Duration duration) {
  // Rounded up, and one more because the first tick may be nearly over: never shorter than asked for.
  return static_cast<flow::Tick>((duration.count() + (std::int64_t{1} << flow::kTickShift) - 1) >> flow::kTickShift) +
         1;
}

}  // namespace

flow::Translation translation_of(bool inside6, bool outside6) {
  if (inside6) return outside6 ? flow::Translation::nat66 : flow::Translation::nat64;
  return outside6 ? flow::Translation::nat46 : flow::Translation::nat44;
}

std::uint32_t expiry_of(const policy::Verdict& verdict) {
  if (verdict.expires == WallTime{}) return 0;
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(verdict.expires.seconds, 1, 0xffffffff));
}

flow::Tick Translator::Implementation::lifetime(const flow::FlowRecord& record) const {
  switch (record.protocol) {
    case ip_protocol::tcp:
      switch (tcp_lifetime(static_cast<TcpState>(record.state))) {
        case TcpLifetime::established:
          return ticks(config_.timers.tcp_established);
        case TcpLifetime::incoming:
          return ticks(config_.timers.tcp_incoming);
        default:
          return ticks(config_.timers.tcp_transitory);
      }
    case ip_protocol::icmp:
      return ticks(config_.timers.icmp_query);
    default:  // protocols without ports, too
      return ticks(config_.timers.udp);
  }
}

flow::FlowRecord Translator::Implementation::record_of(const flow::InsideKey& key, const Endpoint& remote) {
  flow::FlowRecord record{};
  record.inside_source = key.source;
  record.inside_destination = key.destination;
  record.peer = key.peer;
  record.inside_source_port = key.source_port;
  record.inside_destination_port = key.destination_port;
  record.protocol = key.protocol;
  record.translation = translation_of(key.source.is_v6(), remote.address.is_v6());
  record.remote = remote.address;
  record.remote_port = remote.port;
  return record;
}

flow::Slot Translator::Implementation::open_flow(const Call& call, const policy::PeerPolicy& policy,
                                                 const flow::InsideKey& key, std::uint64_t hash,
                                                 const FirstPacket* first, Refusal& refusal) {
  policy::Verdict verdict;
  refusal = find_destination(call, policy, key, first, verdict);
  if (refusal.reason != DropReason::none) return flow::kNoSlot;
  if (!table_.peer_known(key.peer) || table_.peer_flows(key.peer) >= config_.max_flows_per_peer) {
    refusal.reason = DropReason::flow_peer_limit;
    return flow::kNoSlot;
  }
  const bool outside6 = verdict.destination.is_v6();
  if (!has_ports(key.protocol) && outside6 != key.source.is_v6()) {
    refusal.reason = DropReason::nat_protocol_unsupported;
    return flow::kNoSlot;
  }
  flow::FlowRecord record = record_of(key, {verdict.destination, key.destination_port});
  record.state = static_cast<std::uint8_t>(TcpState::init);
  record.policy_epoch = policy.epoch;
  record.expires = expiry_of(verdict);
  record.last_seen = call.tick;
  record.translation_tag = verdict.tag;

  if (!assign_outside(record, first != nullptr ? first->proposed : std::uint16_t{0})) {
    refusal.reason = DropReason::nat_ports_exhausted;
    return flow::kNoSlot;
  }
  const flow::Slot slot = put_in(call, record, hash);
  if (slot == flow::kNoSlot) {
    refusal.reason = DropReason::flow_table_full;
    return slot;
  }
  ++counters_.flows_created;
  return slot;
}

flow::Slot Translator::Implementation::put_in(const Call& call, const flow::FlowRecord& record, std::uint64_t hash) {
  const flow::Slot slot = table_.insert(record, hash, outside_hash(record));
  if (slot == flow::kNoSlot) return slot;
  const bool fresh = acquire_outside(slot);
  if (config_.log != nullptr && (fresh || config_.log->wants_destinations())) record_binding(table_[slot], true);
  if (table_.peer_flows(record.peer) == 1) ++active_peers_;
  table_.wheel().schedule(slot, call.tick + lifetime(record));
  if (const std::uint16_t mtu = path_mtus_.find(record.remote, call.now.monotonic); mtu != 0)
    narrow(call, slot, true, mtu);
  return slot;
}

void Translator::Implementation::take_out(flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  const bool last = release_outside(slot);
  if (config_.log != nullptr && (last || config_.log->wants_destinations())) record_binding(record, false);
  if (table_.peer_flows(record.peer) == 1) --active_peers_;
  table_.erase(slot, outside_hash(record));
}

bool Translator::Implementation::still_allowed(const Call& call, flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  const policy::PeerPolicy* policy = policy_of(call, record.peer);
  const bool expired = record.expires != 0 && call.now.wall.seconds >= record.expires;
  if (policy != nullptr && policy->epoch == record.policy_epoch && !expired) return true;

  // Judged anew. What a name resolves to now does not concern a live flow (traps nat-13, nat-14, flow-2); whether the
  // peer may still go there, and whether its proxy address still means this name, does.
  const auto allowed = [&] {
    if (policy == nullptr || !policy->source_allowed(record.inside_source)) return false;
    const policy::Verdict verdict = policy->judge(record.inside_destination, record.protocol,
                                                  record.inside_destination_port, source_nat_, call.now.wall);
    const bool right = verdict.reason == DropReason::none || verdict.wait ||
                       verdict.reason == DropReason::name_no_address || verdict.reason == DropReason::nat_no_source;
    if (!right || policy->translation_tag(verdict.translation) != record.translation_tag) return false;
    table_.store(slot, &flow::FlowRecord::policy_epoch, policy->epoch);
    table_.store(slot, &flow::FlowRecord::expires, expiry_of(verdict));
    return true;
  };
  if (allowed()) return true;
  ++counters_.flows_revoked;
  end_flow(slot);
  return false;
}

void Translator::Implementation::touch(const Call& call, flow::Slot slot, bool from_inside, Bytes transport) {
  const flow::FlowRecord& record = table_[slot];
  auto FlowCounter = from_inside ? &flow::FlowRecord::packets_up : &flow::FlowRecord::packets_down;
  table_.store(slot, FlowCounter, record.*FlowCounter + 1);
  if (record.protocol == ip_protocol::tcp && transport.size() >= sizeof(TcpHeader)) {
    const auto before = static_cast<TcpState>(record.state);
    const TcpStep step = tcp_step(before, from_inside, transport[13]);
    if (step.lifetime != TcpLifetime::unchanged) table_.store(slot, &flow::FlowRecord::last_seen, call.tick);
    if (step.state == before) return;
    table_.store(slot, &flow::FlowRecord::state, static_cast<std::uint8_t>(step.state));
    // A longer life is found out when the wheel asks; a shorter one must be told.
    if (tcp_lifetime(step.state) != tcp_lifetime(before))
      table_.wheel().schedule(slot, record.last_seen + lifetime(record));
    return;
  }
  if (record.last_seen != call.tick) table_.store(slot, &flow::FlowRecord::last_seen, call.tick);
}

void Translator::Implementation::end_flow(flow::Slot slot) {
  const PeerIndex peer = table_[slot].peer;
  end_opening(slot);
  take_out(slot);
  leave_home(peer);
  ++counters_.flows_ended;
}

// The peer may find a new home when it has no flow left here.
void Translator::Implementation::leave_home(PeerIndex peer) {
  if (config_.homes != nullptr && table_.peer_flows(peer) == 0) config_.homes->leave(peer, config_.worker);
}

void Translator::Implementation::age(const Call& call, std::uint32_t budget) {
  table_.wheel().advance(call.tick, budget, [&](flow::Slot slot) {
    const flow::FlowRecord& record = table_[slot];
    const flow::Tick deadline = record.last_seen + lifetime(record);
    if (deadline > call.tick) {
      table_.wheel().schedule(slot, deadline);
      look_whether_left(call, slot);
      return;
    }
    ++counters_.flows_expired;
    end_flow(slot);
  });
}

}  // namespace penstock::nat
