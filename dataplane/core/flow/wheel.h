// Ageing: a hierarchical timing wheel over slots, three levels of 256 (17 s, 73 min, 13 days at 67 ms per tick).
//
// A slot is scheduled at most once. Scheduling and cancelling are O(1); advancing touches only what is due and, once
// per level it descends, what is scheduled. `advance` takes a budget, so that a worker can pay for ageing in small
// coins: when the budget is used up the wheel lags behind and goes on next time. Flows are not moved when they are
// used; who is told that a slot is due looks at its real deadline and schedules it again.
//
// One thread. No allocation after construction.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/flow/zeroed_array.h"

namespace penstock::flow {

class TimingWheel {
 public:
  explicit TimingWheel(std::uint32_t capacity);

  // At `at`, but not before the tick after the last complete advance. Replaces an earlier time.
  void schedule(Slot slot, Tick at);
  void cancel(Slot slot);
  void prefetch(Slot slot) const { prefetch_write(&nodes_[slot]); }
  // Any thread.
  void map_ahead(Slot first, std::uint32_t count) const { nodes_.map_ahead(first, count); }

  // Takes out everything due at or before `now` and calls `due(slot)` for it, which may schedule and cancel any slot.
  // At most `budget` slots are touched. True when nothing due is left.
  template <typename Due>
  bool advance(Tick now, std::uint32_t budget, Due&& due);

  // When to advance next: at or before the earliest scheduled time, later than the last complete advance. nullopt:
  // empty.
  [[nodiscard]] std::optional<Tick> next() const;

  [[nodiscard]] std::uint32_t size() const { return size_; }

 private:
  static constexpr unsigned kBits = 8;
  static constexpr std::uint32_t kSlots = 1U << kBits;
  static constexpr std::size_t kLevels = 3;
  static constexpr std::uint16_t kNowhere = 0;  // `where` of an unscheduled slot; lists count from 1

  struct Node {
    Slot previous;
    Slot next;
    Tick at;
    std::uint16_t where;
    std::uint16_t unused;
  };

  [[nodiscard]] static std::size_t list(std::size_t level, std::uint32_t position) { return level * kSlots + position; }
  // First occupied list of `level` at or behind `from` in the direction of time, as a distance; kSlots when none is.
  [[nodiscard]] std::uint32_t distance(std::size_t level, std::uint32_t from) const;
  void link(Slot slot, Tick at);
  Slot pop(std::size_t list);
  // Brings one slot of the upper levels down if it is time; false when there is none.
  bool cascade_one();

  ZeroedArray<Node> nodes_;
  std::array<Slot, kLevels * kSlots> heads_;
  std::array<std::array<std::uint64_t, kSlots / 64>, kLevels> occupied_{};
  Tick current_ = 0;  // everything before has been dealt with
  std::uint32_t size_ = 0;
};

template <typename Due>
bool TimingWheel::advance(Tick now, std::uint32_t budget, Due&& due) {
  while (current_ <= now) {
    if (size_ == 0) {
      current_ = now + 1;
      return true;
    }
    if (current_ % kSlots == 0) {
      while (budget > 0 && cascade_one()) --budget;
      if (budget == 0) return false;
    }
    const std::size_t here = list(0, current_ % kSlots);
    while (heads_[here] != kNoSlot) {
      if (budget == 0) return false;
      --budget;
      due(pop(here));
    }
    // Skip what is empty, but stop where a level turns over.
    const std::uint32_t ahead = distance(0, current_ % kSlots);
    const Tick turn = kSlots - current_ % kSlots;
    const Tick left = now - current_;
    current_ += ahead == 0 ? 0 : (ahead < turn ? ahead : turn) > left ? left + 1 : (ahead < turn ? ahead : turn);
  }
  return true;
}

}  // namespace penstock::flow
