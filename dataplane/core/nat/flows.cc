// Flows: whether they may begin, with which port, whether they may go on, when they end.
#include <algorithm>

#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint32_t kNoTranslation = 0xffffffff;

flow::Tick ticks(Duration duration) {
  // Rounded up, and one more because the first tick may be nearly over: never shorter than asked for.
  return static_cast<flow::Tick>((duration.count() + (std::int64_t{1} << flow::kTickShift) - 1) >> flow::kTickShift) +
         1;
}

flow::Translation translation_of(bool inside6, bool outside6) {
  if (inside6) return outside6 ? flow::Translation::nat66 : flow::Translation::nat64;
  return outside6 ? flow::Translation::nat46 : flow::Translation::nat44;
}

std::uint32_t expiry_of(const policy::PeerPolicy& policy, const policy::Verdict& verdict) {
  const WallTime expires = policy.authorisations[verdict.authorisation].expires;
  if (expires == WallTime{}) return 0;
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(expires.seconds, 1, 0xffffffff));
}

}  // namespace

const policy::PeerPolicy* Translator::Implementation::policy_of(const Call& call, PeerIndex peer) const {
  return peer < call.policies.size() ? call.policies[peer].load(std::memory_order_acquire) : nullptr;
}

const IpAddress& Translator::Implementation::source_address(const flow::FlowRecord& record) const {
  return (record.remote.is_v4() ? config_.source_v4 : config_.source_v6)[record.source_address];
}

flow::Tick Translator::Implementation::lifetime(const flow::FlowRecord& record) const {
  switch (record.protocol) {
    case ip_protocol::tcp:
      return ticks(tcp_lifetime(static_cast<TcpState>(record.state)) == TcpLifetime::established
                       ? config_.timers.tcp_established
                       : config_.timers.tcp_transitory);
    case ip_protocol::udp:
      return ticks(config_.timers.udp);
    default:
      return ticks(config_.timers.icmp_query);
  }
}

// Order of a new flow (agreements.md): source allowed, verdict, name, family, then (open_flow) port and entries.
Translator::Implementation::Refusal Translator::Implementation::find_destination(const Call& call,
                                                                                 const policy::PeerPolicy& policy,
                                                                                 const flow::InsideKey& key,
                                                                                 policy::Verdict& verdict) const {
  if (!policy.source_allowed(key.source)) return {DropReason::inner_source_not_allowed, false};
  verdict = policy.judge(key.destination, key.protocol, key.destination_port, source_nat_, call.now.wall);
  if (verdict.reason == DropReason::policy_no_resource &&
      (config_.proxy_v4.contains(key.destination) || config_.proxy_v6.contains(key.destination)))
    // A packet may overtake the message that names its destination; a peer without control cannot send one.
    return {DropReason::name_unknown, policy.control};
  if (verdict.reason != DropReason::none) return {verdict.reason, verdict.wait};
  if (verdict.translation != kNoTranslation)
    return {policy::choose_destination(policy.translations[verdict.translation], key.destination.is_v6(), source_nat_,
                                       &forbidden_, verdict.destination),
            false};
  if (config_.tunnel_v4.contains(verdict.destination) || config_.tunnel_v6.contains(verdict.destination))
    return {DropReason::nat_hairpin_refused, false};
  if (forbidden_.contains(verdict.destination)) return {DropReason::policy_forbidden_destination, false};
  return {};
}

flow::Slot Translator::Implementation::open_flow(const Call& call, const policy::PeerPolicy& policy,
                                                 const flow::InsideKey& key, std::uint64_t hash, Refusal& refusal) {
  policy::Verdict verdict;
  refusal = find_destination(call, policy, key, verdict);
  if (refusal.reason != DropReason::none) return flow::kNoSlot;
  if (!table_.peer_known(key.peer) || table_.peer_flows(key.peer) >= config_.max_flows_per_peer) {
    refusal.reason = DropReason::flow_peer_limit;
    return flow::kNoSlot;
  }
  const bool outside6 = verdict.destination.is_v6();
  const auto& addresses = outside6 ? config_.source_v6 : config_.source_v4;
  flow::FlowRecord record{};
  record.inside_source = key.source;
  record.inside_destination = key.destination;
  record.peer = key.peer;
  record.inside_source_port = key.source_port;
  record.inside_destination_port = key.destination_port;
  record.protocol = key.protocol;
  record.translation = translation_of(key.source.is_v6(), outside6);
  record.state = static_cast<std::uint8_t>(TcpState::init);
  record.policy_epoch = policy.epoch;
  record.expires = expiry_of(policy, verdict);
  record.last_seen = call.tick;
  record.remote = verdict.destination;
  record.remote_port = key.destination_port;
  record.translation_tag = policy.translation_tag(verdict.translation);

  // RFC 4787 REQ-2: one peer appears under one address, as long as that has ports.
  const std::size_t preferred = (key.peer * std::size_t{0x9e3779b1}) % addresses.size();
  std::optional<std::uint16_t> port;
  std::uint64_t hash_out = 0;
  for (std::size_t i = 0; i < addresses.size() && !port; ++i) {
    record.source_address = static_cast<std::uint16_t>((preferred + i) % addresses.size());
    flow::OutsideKey outside{addresses[record.source_address], record.remote, 0, record.remote_port, key.protocol};
    port = space(key.protocol, outside6, record.source_address)
               .choose(key.source_port, record.remote, record.remote_port, [&](std::uint16_t candidate) {
                 if (key.protocol == ip_protocol::udp && candidate == config_.reserved_udp_port) return true;
                 outside.local_port = candidate;
                 return table_.find(outside, record.source_address, table_.hash(outside)) != flow::kNoSlot;
               });
    if (!port) continue;
    outside.local_port = *port;
    hash_out = table_.hash(outside);
  }
  if (!port) {
    refusal.reason = DropReason::nat_ports_exhausted;
    return flow::kNoSlot;
  }
  record.source_port = *port;
  prepare_rewrite(record, addresses[record.source_address]);

  const flow::Slot slot = table_.insert(record, hash, hash_out);
  if (slot == flow::kNoSlot) {
    refusal.reason = DropReason::flow_table_full;
    return slot;
  }
  space(key.protocol, outside6, record.source_address).acquired(record.source_port, record.remote, record.remote_port);
  table_.wheel().schedule(slot, call.tick + lifetime(record));
  ++counters_.flows_created;
  return slot;
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
    table_.store(slot, &flow::FlowRecord::expires, expiry_of(*policy, verdict));
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
  const flow::FlowRecord& record = table_[slot];
  const flow::OutsideKey outside{source_address(record), record.remote, record.source_port, record.remote_port,
                                 record.protocol};
  space(record.protocol, record.remote.is_v6(), record.source_address)
      .released(record.source_port, record.remote, record.remote_port);
  const PeerIndex peer = record.peer;
  table_.erase(slot, table_.hash(outside));
  if (config_.homes != nullptr && table_.peer_flows(peer) == 0) config_.homes->leave(peer, config_.worker);
  ++counters_.flows_ended;
}

void Translator::Implementation::age(flow::Tick tick, std::uint32_t budget) {
  table_.wheel().advance(tick, budget, [&](flow::Slot slot) {
    const flow::FlowRecord& record = table_[slot];
    const flow::Tick deadline = record.last_seen + lifetime(record);
    if (deadline > tick) {
      table_.wheel().schedule(slot, deadline);
      return;
    }
    ++counters_.flows_expired;
    end_flow(slot);
  });
}

}  // namespace penstock::nat
