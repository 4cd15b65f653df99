// Bounded rings that carry pointers (packets) between threads: no locks, no allocation after construction, order kept.
//
// SpscRing: one producer thread, one consumer thread. Worker -> slow thread, slow thread -> worker.
// MpscRing: any number of producers, one consumer; order is kept per producer. Worker -> worker (hand-over).
// Both take a burst and say how much of it fitted; the caller keeps (and counts) the rest. Capacity is rounded up to a
// power of two.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace penstock::runtime {

inline constexpr std::size_t kCacheLine = 64;

template <typename T>
class SpscRing {
 public:
  explicit SpscRing(std::size_t capacity)
      : mask_(std::bit_ceil(capacity < 2 ? std::size_t{2} : capacity) - 1), slots_(std::make_unique<T[]>(mask_ + 1)) {}

  // Producer. Returns how many of `items` went in, from the front.
  std::size_t push(std::span<const T> items) {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    std::size_t room = mask_ + 1 - (tail - head_seen_);
    if (room < items.size()) {
      head_seen_ = head_.load(std::memory_order_acquire);
      room = mask_ + 1 - (tail - head_seen_);
    }
    const std::size_t n = items.size() < room ? items.size() : room;
    for (std::size_t i = 0; i < n; ++i) slots_[(tail + i) & mask_] = items[i];
    tail_.store(tail + n, std::memory_order_release);
    return n;
  }
  bool push(T item) { return push(std::span<const T>(&item, 1)) == 1; }

  // Consumer. Returns how many were taken, oldest first.
  std::size_t pop(std::span<T> into) {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    std::size_t ready = tail_seen_ - head;
    if (ready < into.size()) {
      tail_seen_ = tail_.load(std::memory_order_acquire);
      ready = tail_seen_ - head;
    }
    const std::size_t n = into.size() < ready ? into.size() : ready;
    for (std::size_t i = 0; i < n; ++i) into[i] = slots_[(head + i) & mask_];
    head_.store(head + n, std::memory_order_release);
    return n;
  }

  // Any thread; a moment's view.
  [[nodiscard]] bool empty() const {
    return head_.load(std::memory_order_acquire) == tail_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::size_t size() const {
    const std::size_t head = head_.load(std::memory_order_acquire);
    return tail_.load(std::memory_order_acquire) - head;
  }
  [[nodiscard]] std::size_t capacity() const { return mask_ + 1; }

 private:
  const std::size_t mask_;
  const std::unique_ptr<T[]> slots_;
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};  // producer writes
  std::size_t head_seen_ = 0;                             // producer's view of head_
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};  // consumer writes
  std::size_t tail_seen_ = 0;                             // consumer's view of tail_
};

// Each slot carries a sequence number: equal to the position when free for that position, one more when filled.
template <typename T>
class MpscRing {
 public:
  explicit MpscRing(std::size_t capacity)
      : mask_(std::bit_ceil(capacity < 2 ? std::size_t{2} : capacity) - 1),
        slots_(std::make_unique<Slot[]>(mask_ + 1)) {
    for (std::size_t i = 0; i <= mask_; ++i) slots_[i].sequence.store(i, std::memory_order_relaxed);
  }

  // Any producer. Returns how many of `items` went in, from the front.
  std::size_t push(std::span<const T> items) {
    std::size_t n = 0;
    while (n < items.size() && push(items[n])) ++n;
    return n;
  }

  bool push(T item) {
    std::size_t position = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Slot& slot = slots_[position & mask_];
      const std::size_t sequence = slot.sequence.load(std::memory_order_acquire);
      if (sequence == position) {
        if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
          slot.value = item;
          slot.sequence.store(position + 1, std::memory_order_release);
          return true;
        }
      } else if (static_cast<std::ptrdiff_t>(sequence - position) < 0) {
        return false;  // still occupied by the lap before: full
      } else {
        position = tail_.load(std::memory_order_relaxed);
      }
    }
  }

  // The consumer. A slot that a producer has claimed but not yet filled ends the batch.
  std::size_t pop(std::span<T> into) {
    std::size_t head = head_.load(std::memory_order_relaxed);
    std::size_t n = 0;
    while (n < into.size()) {
      Slot& slot = slots_[head & mask_];
      if (slot.sequence.load(std::memory_order_acquire) != head + 1) break;
      into[n++] = slot.value;
      slot.sequence.store(head + mask_ + 1, std::memory_order_release);
      ++head;
    }
    head_.store(head, std::memory_order_release);
    return n;
  }

  [[nodiscard]] bool empty() const {
    return head_.load(std::memory_order_acquire) == tail_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::size_t capacity() const { return mask_ + 1; }

 private:
  struct Slot {
    std::atomic<std::size_t> sequence{0};
    T value{};
  };
  const std::size_t mask_;
  const std::unique_ptr<Slot[]> slots_;
  alignas(kCacheLine) std::atomic<std::size_t> tail_{0};
  alignas(kCacheLine) std::atomic<std::size_t> head_{0};
};

}  // namespace penstock::runtime
