#include "dataplane/core/flow/table.h"

#include <algorithm>

namespace penstock::flow {
namespace {

constexpr std::size_t kWords = sizeof(FlowRecord) / sizeof(std::uint64_t);
constexpr int kCopyAttempts = 16;

std::uint64_t* words_of(FlowRecord& record) {
  return reinterpret_cast<std::uint64_t*>(&record);
}

}  // namespace

FlowTable::FlowTable(std::uint32_t capacity, std::uint32_t max_peers, Random& random)
    : hash_{random},
      records_{capacity},
      inside_{capacity},
      outside_{capacity},
      wheel_{capacity},
      peer_flows_(max_peers, 0) {}

// The version is odd while words are written. Every word is released after it, so a reader that got a new word also
// sees that the version has moved.
void FlowTable::write(Slot slot, const FlowRecord& record) {
  FlowRecord& to = records_[slot];
  std::atomic_ref<std::uint32_t> version{to.version};
  const std::uint32_t before = version.load(std::memory_order_relaxed);
  version.store(before + 1, std::memory_order_relaxed);
  FlowRecord copy = record;
  copy.version = before + 1;
  for (std::size_t i = 0; i < kWords; ++i)
    std::atomic_ref<std::uint64_t>{words_of(to)[i]}.store(words_of(copy)[i], std::memory_order_release);
  version.store(before + 2, std::memory_order_release);
}

bool FlowTable::copy(Slot slot, FlowRecord& out) const {
  auto& from = const_cast<FlowRecord&>(records_[slot]);
  for (int attempt = 0; attempt < kCopyAttempts; ++attempt) {
    const std::uint32_t before = std::atomic_ref<std::uint32_t>{from.version}.load(std::memory_order_acquire);
    if (before % 2 != 0) continue;
    for (std::size_t i = 0; i < kWords; ++i)
      words_of(out)[i] = std::atomic_ref<std::uint64_t>{words_of(from)[i]}.load(std::memory_order_acquire);
    if (std::atomic_ref<std::uint32_t>{from.version}.load(std::memory_order_relaxed) == before) return out.live != 0;
  }
  return false;
}

FlowTable::Range FlowTable::map_ahead() {
  constexpr std::uint32_t kAtLeast = 1U << 15;  // 5 MiB
  constexpr std::uint32_t kIntervals = 4;
  const Slot used = high_water();
  if (mapped_ == 0) {
    inside_.map_ahead();
    outside_.map_ahead();
  }
  const std::uint64_t ahead = std::max<std::uint64_t>(kAtLeast, std::uint64_t{used - seen_} * kIntervals);
  const auto wanted = static_cast<Slot>(std::min<std::uint64_t>(capacity(), used + ahead));
  seen_ = used;
  const Slot first = std::max(mapped_, used);
  if (wanted < first + kAtLeast / 4 && wanted != capacity()) return {};  // not in small portions
  if (wanted <= first) return {};
  records_.map_ahead(first, wanted - first);
  wheel_.map_ahead(first, wanted - first);
  mapped_ = wanted;
  return {first, wanted - first};
}

Slot FlowTable::insert(const FlowRecord& record, std::uint64_t hash_in, std::uint64_t hash_out) {
  Slot slot = free_;
  const bool fresh = slot == kNoSlot;
  if (fresh) {
    slot = high_water_.load(std::memory_order_relaxed);
    if (slot >= records_.size()) return kNoSlot;
  }
  if (!inside_.insert(hash_in, slot)) return kNoSlot;
  if (!outside_.insert(hash_out, slot)) {
    inside_.erase(hash_in, slot);
    return kNoSlot;
  }
  if (!fresh) free_ = records_[slot].next_free;
  FlowRecord copy = record;
  copy.live = 1;
  copy.next_free = kNoSlot;
  write(slot, copy);
  if (fresh) high_water_.store(slot + 1, std::memory_order_release);
  ++peer_flows_[record.peer];
  size_.store(size() + 1, std::memory_order_relaxed);
  return slot;
}

void FlowTable::erase(Slot slot, std::uint64_t hash_out) {
  const FlowRecord& record = records_[slot];
  inside_.erase(hash_(record.inside_key()), slot);
  outside_.erase(hash_out, slot);
  wheel_.cancel(slot);
  --peer_flows_[record.peer];
  FlowRecord gone = record;
  gone.live = 0;
  gone.next_free = free_;
  write(slot, gone);
  free_ = slot;
  size_.store(size() - 1, std::memory_order_relaxed);
}

}  // namespace penstock::flow
