#include "dataplane/core/flow/wheel.h"

#include <algorithm>

namespace penstock::flow {

TimingWheel::TimingWheel(std::uint32_t capacity) : nodes_{capacity} {
  heads_.fill(kNoSlot);
}

void TimingWheel::schedule(Slot slot, Tick at) {
  cancel(slot);
  link(slot, at);
  ++size_;
}

void TimingWheel::link(Slot slot, Tick at) {
  const Tick due = std::max(at, current_);
  const Tick delta = std::min<Tick>(due - current_, (1U << (kBits * kLevels)) - 1);
  const Tick place = current_ + delta;
  const std::size_t level = delta < kSlots ? 0 : delta < kSlots * kSlots ? 1 : 2;
  const std::uint32_t position = (place >> (kBits * level)) % kSlots;
  const std::size_t to = list(level, position);
  Node& node = nodes_[slot];
  node = {kNoSlot, heads_[to], at, static_cast<std::uint16_t>(to + 1), 0};
  if (node.next != kNoSlot) nodes_[node.next].previous = slot;
  heads_[to] = slot;
  occupied_[level][position / 64] |= 1ULL << (position % 64);
}

void TimingWheel::cancel(Slot slot) {
  Node& node = nodes_[slot];
  if (node.where == kNowhere) return;
  const std::size_t from = node.where - 1U;
  if (node.previous == kNoSlot) {
    heads_[from] = node.next;
  } else {
    nodes_[node.previous].next = node.next;
  }
  if (node.next != kNoSlot) nodes_[node.next].previous = node.previous;
  if (heads_[from] == kNoSlot) occupied_[from / kSlots][from % kSlots / 64] &= ~(1ULL << (from % 64));
  node.where = kNowhere;
  --size_;
}

Slot TimingWheel::pop(std::size_t from) {
  const Slot slot = heads_[from];
  cancel(slot);
  return slot;
}

bool TimingWheel::cascade_one() {
  for (std::size_t level = kLevels; --level > 0;) {
    if (current_ % (1U << (kBits * level)) != 0) continue;
    const std::size_t from = list(level, (current_ >> (kBits * level)) % kSlots);
    if (heads_[from] == kNoSlot) continue;
    const Tick at = nodes_[heads_[from]].at;
    schedule(pop(from), at);
    return true;
  }
  return false;
}

std::uint32_t TimingWheel::distance(std::size_t level, std::uint32_t from) const {
  for (std::uint32_t step = 0; step < kSlots;) {
    const std::uint32_t position = (from + step) % kSlots;
    const std::uint64_t word = occupied_[level][position / 64] >> (position % 64);
    if (word != 0) return std::min<std::uint32_t>(kSlots, step + static_cast<std::uint32_t>(std::countr_zero(word)));
    step += 64 - position % 64;
  }
  return kSlots;
}

std::optional<Tick> TimingWheel::next() const {
  if (size_ == 0) return std::nullopt;
  Tick earliest = ~Tick{0};
  for (std::size_t level = 0; level < kLevels; ++level) {
    const unsigned shift = kBits * static_cast<unsigned>(level);
    const Tick unit = Tick{1} << shift;
    // The list at the current position of an upper level is that of the next round, unless its turn is now.
    const bool turn = current_ % unit == 0;
    const Tick base = (current_ >> shift) + (turn ? 0 : 1);
    const std::uint32_t steps = distance(level, base % kSlots);
    if (steps < kSlots) earliest = std::min(earliest, (base + steps) << shift);
  }
  return earliest;
}

}  // namespace penstock::flow
