#include "controlplane/core/dns/name_map.h"

#include <algorithm>
#include <utility>

#include "controlplane/core/dns/name.h"

namespace penstock::dns {
namespace {

constexpr std::uint32_t kMaxSlots = 1U << 24;

// Addresses in the prefix, at most kMaxSlots; 0 for a prefix of the wrong family.
std::uint32_t pool_size(const Prefix& pool, bool v4) {
  if (pool.address().is_v4() != v4) return 0;
  const unsigned host_bits = (v4 ? 32U : 128U) - pool.length();
  return host_bits >= 24 ? kMaxSlots : 1U << host_bits;
}

// Adds to the last 32 bits; the pool's host bits are zero and at least as wide as the slot.
IpAddress plus(const IpAddress& base, std::uint32_t slot) {
  auto bytes = base.bytes();
  for (std::size_t i = 0; i < 4; ++i)
    bytes[15 - i] = static_cast<std::uint8_t>(bytes[15 - i] | static_cast<std::uint8_t>(slot >> (8 * i)));
  return IpAddress::v6(bytes);
}

std::uint32_t low32(const IpAddress& address) {
  const auto& bytes = address.bytes();
  return std::uint32_t{bytes[12]} << 24 | std::uint32_t{bytes[13]} << 16 | std::uint32_t{bytes[14]} << 8 | bytes[15];
}

}  // namespace

NameMap::NameMap(NameMapConfig config, Random& random) : config_(std::move(config)), random_(random) {
  slots_ = std::min(pool_size(config_.pool_v4, true), pool_size(config_.pool_v6, false));
  clear();
}

void NameMap::clear() {
  by_name_.clear();
  by_slot_.clear();
  entries_.clear();
  resting_.clear();
  resting_order_.clear();
  cursor_ = random_.below(slots_);
  ++revision_;
}

std::optional<std::uint32_t> NameMap::slot_of(const IpAddress& address) const {
  const Prefix& pool = address.is_v4() ? config_.pool_v4 : config_.pool_v6;
  if (!pool.contains(address)) return std::nullopt;
  const std::uint32_t slot = low32(address) - low32(pool.address());
  if (slot >= slots_ || plus(pool.address(), slot) != address) return std::nullopt;
  return slot;
}

ProxyAddresses NameMap::addresses_of(std::uint32_t slot) const {
  return {plus(config_.pool_v4.address(), slot), plus(config_.pool_v6.address(), slot)};
}

bool NameMap::excluded(const ProxyAddresses& addresses) const {
  return std::any_of(config_.excluded.begin(), config_.excluded.end(), [&](const Prefix& prefix) {
    return prefix.contains(addresses.v4) || prefix.contains(addresses.v6);
  });
}

void NameMap::insert(std::string name, std::uint32_t slot, std::uint64_t used_at) {
  entries_.push_back({std::move(name), addresses_of(slot), slot, used_at});
  const auto entry = std::prev(entries_.end());
  by_name_.emplace(entry->name, entry);
  by_slot_.emplace(slot, entry);
}

void NameMap::used(Entries::iterator entry, std::uint64_t wall_s) {
  entry->used_at = std::max(entry->used_at, wall_s);  // a clock set back makes nothing older
  entries_.splice(entries_.end(), entries_, entry);
}

std::optional<ProxyAddresses> NameMap::assign(std::string_view name, WallTime wall) {
  if (const auto known = by_name_.find(name); known != by_name_.end()) {
    used(known->second, wall.seconds);
    return known->second->addresses;
  }
  if (!is_normalised(name) || slots_ == 0) return std::nullopt;
  end_rests(wall.seconds);
  if (entries_.size() >= config_.max_names && !evict_one(wall.seconds)) return std::nullopt;
  const auto slot = next_slot();
  if (!slot) return std::nullopt;
  insert(std::string{name}, *slot, wall.seconds);
  ++revision_;
  return entries_.back().addresses;
}

// Ascending from the cursor. Names and rests together are far fewer than the pool, so a free slot is near; the number
// of steps is bounded by what can be occupied, plus the excluded ranges, which are jumped over.
std::optional<std::uint32_t> NameMap::next_slot() {
  for (std::uint32_t step = 0; step < slots_; ++step) {
    const std::uint32_t slot = cursor_;
    cursor_ = cursor_ + 1 == slots_ ? 0 : cursor_ + 1;
    // The pool's own first and last address look like network and broadcast addresses to some programs.
    if (slot == 0 || slot + 1 == slots_) continue;
    if (by_slot_.contains(slot) || resting_.contains(slot) || excluded(addresses_of(slot))) continue;
    return slot;
  }
  return std::nullopt;
}

bool NameMap::evict_one(std::uint64_t wall_s) {
  if (entries_.empty() || resting_.size() >= config_.max_resting) return false;
  Entry& oldest = entries_.front();
  if (wall_s < oldest.used_at || wall_s - oldest.used_at < config_.evict_after_s) return false;
  rest(oldest.slot, wall_s + config_.reuse_after_s);
  by_name_.erase(oldest.name);
  by_slot_.erase(oldest.slot);
  released_.push_back({std::move(oldest.name), oldest.addresses});
  entries_.pop_front();
  if (released_.size() > config_.max_resting) released_.pop_front();
  ++revision_;
  return true;
}

void NameMap::rest(std::uint32_t slot, std::uint64_t until) {
  if (resting_.size() >= config_.max_resting || !resting_.emplace(slot, until).second) return;
  // Usually at the end: rests are equally long.
  auto at = resting_order_.end();
  while (at != resting_order_.begin() && std::prev(at)->first > until) --at;
  resting_order_.insert(at, {until, slot});
}

void NameMap::end_rests(std::uint64_t wall_s) {
  while (!resting_order_.empty() && resting_order_.front().first <= wall_s) {
    resting_.erase(resting_order_.front().second);
    resting_order_.pop_front();
  }
}

const ProxyAddresses* NameMap::find(std::string_view name) const {
  const auto known = by_name_.find(name);
  return known == by_name_.end() ? nullptr : &known->second->addresses;
}

const std::string* NameMap::find(const IpAddress& address) const {
  const auto slot = slot_of(address);
  if (!slot) return nullptr;
  const auto known = by_slot_.find(*slot);
  return known == by_slot_.end() ? nullptr : &known->second->name;
}

AddressUse NameMap::use_of(const IpAddress& address) const {
  for (const Prefix& prefix : config_.excluded)
    if (prefix.contains(address)) return AddressUse::excluded;
  const auto slot = slot_of(address);
  if (!slot) {
    const bool in_pool = config_.pool_v4.contains(address) || config_.pool_v6.contains(address);
    return in_pool ? AddressUse::unassigned : AddressUse::outside;
  }
  return by_slot_.contains(*slot) ? AddressUse::assigned : AddressUse::unassigned;
}

void NameMap::touch(const IpAddress& address, WallTime wall) {
  const auto slot = slot_of(address);
  if (!slot) return;
  if (const auto known = by_slot_.find(*slot); known != by_slot_.end()) used(known->second, wall.seconds);
}

std::optional<ReleasedName> NameMap::poll_released() {
  if (released_.empty()) return std::nullopt;
  ReleasedName out = std::move(released_.front());
  released_.pop_front();
  return out;
}

}  // namespace penstock::dns
