// Bursts: the steps of the short way (fast_path.h) over all packets, the whole way for the others.
#include <algorithm>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/nat/fast_path.h"
#include "dataplane/core/nat/translator_impl.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint32_t kAgeingPerPacket = 2;

// Not initialised: an array of keys need not be cleared before it is filled.
template <typename T>
union Unset {
  Unset() {}  // NOLINT: that is what it is for
  T value;
};

}  // namespace

inline bool Translator::Implementation::fit(const Call& call, const Packet& packet, const flow::FlowRecord& record) const {
  if ((record.flags & flow::flow_flag::slow) != 0) return false;
  const std::uint32_t epoch = call.policies.epoch(record.peer);
  if (epoch == 0 || epoch != record.policy_epoch) return false;
  if (record.expires != 0 && call.now.wall.seconds >= record.expires) return false;
  const std::uint32_t tcp = words::one_if(record.protocol == ip_protocol::tcp);  // no branch: see plain::read_headers
  const std::size_t header = packet.data[0] >> 4 == 6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  return ((tcp ^ 1) | std::uint32_t{tcp_is_plain(record.state, packet.data[header + std::size_t{13} * tcp])}) != 0;
}

inline void Translator::Implementation::count_plain(const Call& call, flow::Slot slot,
                                                    std::uint64_t flow::FlowRecord::*counter) {
  table_.store(slot, counter, table_[slot].*counter + 1);
  if (table_[slot].last_seen != call.tick) table_.store(slot, &flow::FlowRecord::last_seen, call.tick);
}

inline bool Translator::Implementation::up_fast(const Call& call, Packet& packet, flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  const bool inside6 = flow::inside_is_v6(record.translation);
  const bool outside6 = flow::outside_is_v6(record.translation);
  // A v4-mapped address in an IPv6 header would find an IPv4 flow.
  if (inside6 != (packet.data[0] >> 4 == 6) || !fit(call, packet, record)) return false;
  const std::uint16_t length = plain_translated_length(packet, inside6, outside6);
  if (length > config_.mtu_outside) return false;
  if (!inside6 && outside6 && is_cut(packet, length, config_.lowest_ipv6_mtu)) return false;
  if (turns_around(record.remote)) return false;
  const IpAddress& source = record.source_address == flow::kOwnSource
                                ? record.inside_source
                                : (outside6 ? config_.source_v6 : config_.source_v4)[record.source_address];
  if (!rewrite_up(packet, record, source, outside6 ? std::uint16_t{0} : next_identification(),
                  !config_.rewrite_identification))
    return false;
  packet.flow = slot + 1;
  count_plain(call, slot, &flow::FlowRecord::packets_up);
  call.out->add({&packet, Action::to_outside, DropReason::none, 0});
  return true;
}

inline bool Translator::Implementation::down_fast(const Call& call, Packet& packet, flow::Slot slot) {
  const flow::FlowRecord& record = table_[slot];
  const bool inside6 = flow::inside_is_v6(record.translation);
  const bool outside6 = flow::outside_is_v6(record.translation);
  if (outside6 != (packet.data[0] >> 4 == 6) || !fit(call, packet, record)) return false;
  const std::uint16_t length = plain_translated_length(packet, outside6, inside6);
  if (length > config_.mtu_inside) return false;
  if (!outside6 && inside6 && is_cut(packet, length, config_.lowest_ipv6_mtu)) return false;
  if (!rewrite_down(packet, record, outside6 && !inside6 ? next_identification() : std::uint16_t{0})) return false;
  packet.peer = record.peer;
  packet.flow = slot + 1;
  count_plain(call, slot, &flow::FlowRecord::packets_down);
  call.out->add({&packet, Action::to_inside, DropReason::none, 0});
  return true;
}

void Translator::Implementation::begin_call(const Call& call, std::size_t count) {
  take_site_settings();
  wall_ = call.now.wall;
  age(call, static_cast<std::uint32_t>(count) * kAgeingPerPacket);
  expire_openings(call);
  expire_unsolicited(call);
}

void Translator::Implementation::end_call(const Call& call, Outcomes& out) {
  turn_back(call);
  give_out_refused(out);
  give_out_spent(out);
}

// Three steps over a burst: hash the keys of plain packets while the index is fetched, fetch the records, deal with
// each. A packet that goes the whole way may end, begin or move flows: what was found before it is found anew.
void Translator::Implementation::up(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out) {
  if (start_.load(std::memory_order_relaxed) < 0) start_.store(now.monotonic.time_since_epoch().count());
  const Call call{policies, now, tick_of(now.monotonic), &out};
  const std::size_t count = std::min(packets.size(), kBurst);
  begin_call(call, count);
  Unset<flow::InsideKey> keys[kBurst];
  std::uint64_t hashes[kBurst];
  flow::Slot slots[kBurst];
  bool plain[kBurst];
  for (std::size_t i = 0; i < count; ++i) {
    keys[i].value.peer = packets[i]->peer;
    plain[i] = read_plain(*packets[i], keys[i].value);
    if (!plain[i]) [[unlikely]]
      continue;
    hashes[i] = table_.hash(keys[i].value);
    table_.prefetch_inside(hashes[i]);
  }
  constexpr std::uint8_t kKnown = 0xff;
  Unset<FirstPacket> firsts[kBurst];
  std::uint8_t first_of[kBurst];
  std::size_t first_count = 0;
  for (std::size_t i = 0; i < count; ++i) {
    first_of[i] = kKnown;
    if (!plain[i]) continue;
    bool absent = false;
    slots[i] = table_.prefetch_inside_record(hashes[i], absent);
    if (!absent) continue;
    first_of[i] = static_cast<std::uint8_t>(first_count);
    firsts[first_count++].value.key = &keys[i].value;
  }
  if (first_count != 0) foresee(call, {&firsts[0].value, first_count});
  std::size_t slow = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (plain[i]) {
      const flow::InsideKey& key = keys[i].value;
      flow::Slot slot = slots[i];
      if (slow != 0 || slot == flow::kNoSlot || !table_.is(slot, key)) [[unlikely]]
        slot = table_.find(key, hashes[i]);
      if (slot != flow::kNoSlot && up_fast(call, *packets[i], slot)) [[likely]]
        continue;
      ++slow;
      if (slot == flow::kNoSlot && first_of[i] != kKnown &&
          up_first(call, *packets[i], firsts[first_of[i]].value, hashes[i]))
        continue;
    } else {
      ++slow;
    }
    up_whole(call, *packets[i]);
  }
  counters_.translated_up += count - slow;
  end_call(call, out);
}

// The same, and one step more: which peer a packet goes to is known from the record only, and its policy's epoch comes
// from memory, too.
void Translator::Implementation::down(std::span<Packet* const> packets, PolicyView policies, Now now, Outcomes& out) {
  if (start_.load(std::memory_order_relaxed) < 0) start_.store(now.monotonic.time_since_epoch().count());
  const Call call{policies, now, tick_of(now.monotonic), &out};
  const std::size_t count = std::min(packets.size(), kBurst);
  begin_call(call, count);
  Unset<flow::OutsideKey> keys[kBurst];
  std::uint64_t hashes[kBurst];
  std::uint16_t sources[kBurst];
  flow::Slot slots[kBurst];
  bool plain[kBurst];
  AddressWords last;  // a burst is full of runs
  std::optional<std::uint16_t> last_source;
  for (std::size_t i = 0; i < count; ++i) {
    flow::OutsideKey& key = keys[i].value;
    slots[i] = flow::kNoSlot;
    plain[i] = read_plain(*packets[i], key);
    if (!plain[i]) [[unlikely]]
      continue;
    if (!last_source || !(AddressWords::of(key.local) == last)) {
      last = AddressWords::of(key.local);
      last_source = source_index(key.local);
    }
    plain[i] = last_source.has_value();
    if (!plain[i]) continue;
    sources[i] = *last_source;
    hashes[i] = table_.hash(key);
    table_.prefetch_outside(hashes[i]);
  }
  for (std::size_t i = 0; i < count; ++i)
    if (plain[i]) slots[i] = table_.prefetch_outside_record(hashes[i]);
  for (std::size_t i = 0; i < count; ++i) {
    if (!plain[i]) continue;
    if (slots[i] == flow::kNoSlot || !table_.is(slots[i], keys[i].value, sources[i])) [[unlikely]]
      slots[i] = table_.find(keys[i].value, sources[i], hashes[i]);
    if (slots[i] == flow::kNoSlot) continue;
    policies.prefetch_epoch(table_[slots[i]].peer);
  }
  std::size_t slow = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (plain[i]) {
      const flow::Slot slot = slow != 0 ? table_.find(keys[i].value, sources[i], hashes[i]) : slots[i];
      if (slot != flow::kNoSlot && down_fast(call, *packets[i], slot)) [[likely]]
        continue;
    }
    down_whole(call, *packets[i]);
    ++slow;
  }
  counters_.translated_down += count - slow;
  end_call(call, out);
}

}  // namespace penstock::nat
