// First packets of flows, a burst's together: what setting the flows up will look at is fetched link by link for all of
// them, and those that are plain (fast_path.h) take a short way: judged once, opened, rewritten in place.
//
// As fast_path.h, this file decides nothing that the whole way would decide differently: it may only decline, before it
// has changed anything or behind a flow that is set up, with which the whole way goes on.
#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/first.h"
#include "dataplane/core/nat/mss.h"
#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

// A first packet's way is a chain of look-ups that no cache holds: the policy's index, the place of the destination in
// it, the index and ports of the other side, a place in the table. Where the flow goes is only guessed (the name's first
// address, the client's own port, another port if that seems taken): a wrong guess costs a fetch.
void Translator::Implementation::foresee(const Call& call, std::span<FirstPacket> firsts) {
  for (FirstPacket& first : firsts) {
    first.policy = policy_of(call, first.key->peer);
    if (first.policy != nullptr) first.policy->prefetch();
  }
  for (const FirstPacket& first : firsts)
    if (first.policy != nullptr) first.policy->prefetch_index();
  for (const FirstPacket& first : firsts)
    if (first.policy != nullptr) first.policy->prefetch_destination(first.key->destination);
  for (const FirstPacket& first : firsts)
    if (first.policy != nullptr) first.policy->prefetch_candidate(first.key->destination);
  std::uint32_t ahead = 0;
  for (FirstPacket& first : firsts) {
    first.verdict.reason = DropReason::policy_no_resource;
    first.ports = nullptr;
    first.proposed = 0;
    if (first.policy == nullptr) continue;
    const flow::InsideKey& key = *first.key;
    first.verdict = first.policy->judge(key.destination, key.protocol, key.destination_port, source_nat_, call.now.wall);
    if (first.verdict.reason != DropReason::none) continue;
    table_.prefetch_insert(ahead++);
    const bool v6 = first.verdict.destination.is_v6();
    const auto& addresses = v6 ? config_.source_v6 : config_.source_v4;
    if (addresses.empty()) continue;
    const bool own = config_.keep_source && v6 == key.source.is_v6();
    const std::size_t source = preferred_address(key.peer, addresses.size());
    first.outside = {own ? key.source : addresses[source], first.verdict.destination, key.source_port,
                     key.destination_port, key.protocol};
    first.outside_hash = table_.hash(first.outside);
    table_.prefetch_outside(first.outside_hash);
    if (own) continue;
    first.ports = &space(key.protocol, v6, static_cast<std::uint16_t>(source));
    first.ports->prefetch(key.source_port);
  }
  // A port that somebody has already towards this destination: the client gets another one, whose places are fetched, too.
  for (FirstPacket& first : firsts) {
    if (first.ports == nullptr) continue;
    const std::uint16_t wanted = first.key->source_port;
    const bool free =
        first.ports->has(wanted) && table_.prefetch_outside_record(first.outside_hash) == flow::kNoSlot;
    const bool v6 = first.outside.local.is_v6();
    const auto& addresses = v6 ? config_.source_v6 : config_.source_v4;
    std::optional<std::uint16_t> port;
    if (const ReplySteering* steering = steering_for(first.key->protocol, v6); steering != nullptr) {
      const Landing lands{
          steering, steering->without_port(first.outside.remote, first.outside.remote_port, first.outside.local), v6,
          config_.worker};
      if (free && lands(wanted)) continue;
      port = first.ports->draw_landing(wanted, config_.workers, lands);
    } else {
      if (free && !takes_too_much(first.key->peer, *first.ports, addresses.size())) continue;
      port = first.ports->propose(wanted);
    }
    if (!port) continue;
    first.proposed = *port;
    first.outside.local_port = *port;
    table_.prefetch_outside(table_.hash(first.outside));
    first.ports->prefetch(*port);
  }
}

// False: the whole way goes on with the packet; `hash`: of its key.
bool Translator::Implementation::up_first(const Call& call, Packet& packet, const FirstPacket& first,
                                          std::uint64_t hash) {
  const flow::InsideKey& key = *first.key;
  if (first.verdict.reason != DropReason::none || !has_ports(key.protocol)) return false;
  if (config_.workers > 1) {
    if (config_.homes == nullptr || config_.keep_source) return false;
    if (config_.homes->find_or_claim(packet.peer, config_.worker) != config_.worker) return false;
  }
  const std::uint8_t* header = packet.data;
  const bool inside6 = header[0] >> 4 == 6;
  const std::size_t header_length = inside6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  const bool tcp = key.protocol == ip_protocol::tcp;
  // A v4-mapped address in an IPv6 header is somebody's trick; sources and flags have reasons of their own.
  if (inside6 != key.source.is_v6() || inside6 != key.destination.is_v6() || source_is_invalid(key.source)) return false;
  if (tcp && !tcp_begins(header[header_length + 13])) return false;
  if (table_.find(key, hash) != flow::kNoSlot) return false;  // of an earlier packet of this burst

  Refusal refusal;
  const flow::Slot slot = open_flow(call, *first.policy, key, hash, &first, refusal);
  if (slot == flow::kNoSlot) return false;  // and the whole way says why
  const flow::FlowRecord& record = table_[slot];
  const bool outside6 = record.remote.is_v6();
  const std::uint16_t length = plain_translated_length(packet, inside6, outside6);
  if ((record.flags & flow::flow_flag::slow) != 0 || length > config_.mtu_outside || turns_around(record.remote))
    return false;
  if (!inside6 && outside6 && is_cut(packet, length, config_.lowest_ipv6_mtu)) return false;
  if (tcp) {
    if (first.verdict.several) return false;  // the SYN is kept until one of them answers
    clamp_mss(packet.bytes().subspan(header_length),
              static_cast<std::uint16_t>(config_.mtu_inside - (inside6 ? 60 : 40)));
  }
  // Within IPv4 and from IPv6 to it, as up_query does; towards IPv6 there is none.
  if (!rewrite_up(packet, record, source_address(record), outside6 ? std::uint16_t{0} : next_identification(),
                  !config_.rewrite_identification))
    return false;
  packet.flow = slot + 1;
  table_.store(slot, &flow::FlowRecord::packets_up, std::uint64_t{1});
  ++counters_.translated_up;
  call.out->add({&packet, Action::to_outside, DropReason::none, 0});
  return true;
}

}  // namespace penstock::nat
