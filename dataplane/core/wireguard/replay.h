// Anti-replay window of a session: 8192 counters, lock-free, any number of receiving threads.
//
// Theory of operation (after RFC 6479, made lock-free). Counters are grouped in blocks of 32. The window is a ring of
// 256 words; a word holds a tag that names the block it stands for, and that block's 32 "seen" bits, so that one
// compare-and-swap both claims the word for a newer block and marks a counter. `head_` is the newest block and is
// always advanced *before* a word is claimed: who loads a word first and the head second therefore knows that the
// word's block is not newer than that head. Blocks 256 or more behind the head are refused, hence a word met by an
// acceptable block stands either for that very block (the tag says so) or for an older one, which it may replace.
//
// Invariant: accept(c) returns true at most once per c, from all threads together. (Tags are 32 bits of a longer
// number: after a jump of more than 2^40 counters a tag may collide, which can only refuse a counter, never accept it
// twice.) The window reaches back at least 8160 counters behind the newest one accepted.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "dataplane/core/base/prefetch.h"

namespace penstock::wireguard {

class ReplayWindow {
 public:
  static constexpr std::uint64_t kWindow = 8192;
  static constexpr std::uint64_t kBlock = 32;
  static constexpr std::uint64_t kBlocks = kWindow / kBlock;

  // Whether `counter` could still be accepted; before decryption, changes nothing.
  [[nodiscard]] bool would_accept(std::uint64_t counter) const {
    const std::uint64_t block = counter / kBlock;
    const std::uint64_t word = words_[block % kBlocks].load(std::memory_order_acquire);
    if (block + kBlocks <= head_.load(std::memory_order_relaxed)) return false;
    return acceptable(word, block, std::uint32_t{1} << (counter % kBlock)) != 0;
  }

  // Marks `counter` as seen. True when it was not seen before and is not too old. Only after authentication.
  bool accept(std::uint64_t counter) {
    return accept_bits(counter / kBlock, std::uint32_t{1} << (counter % kBlock)) != 0;
  }

  // The same for `n` counters (n <= 64) in their order: bit i of the result says whether counters[i] was accepted.
  // Neighbours in one block cost one atomic operation together.
  std::uint64_t accept_burst(const std::uint64_t* counters, unsigned n) {
    std::uint64_t accepted = 0;
    for (unsigned i = 0; i < n;) {
      const std::uint64_t block = counters[i] / kBlock;
      std::uint32_t wanted = 0;
      unsigned end = i;
      for (; end < n && counters[end] / kBlock == block; ++end) {
        const std::uint32_t bit = std::uint32_t{1} << (counters[end] % kBlock);
        if (wanted & bit) break;  // a duplicate inside the burst starts a new run and is then refused
        wanted |= bit;
      }
      const std::uint32_t got = accept_bits(block, wanted);
      for (; i < end; ++i) accepted |= std::uint64_t{(got >> (counters[i] % kBlock)) & 1U} << i;
    }
    return accepted;
  }

  // The head lies in its owner's line.
  void prefetch(std::uint64_t counter) const {
    prefetch_write(&words_[counter / kBlock % kBlocks]);
  }

  // The newest blocks for another process or the other end, `seen[i]` the bits of block head - i. Taken concurrently
  // with use it may lack what is being accepted. A restored window (not concurrently with use) refuses all that was
  // accepted, and all that is older than these blocks.
  static constexpr std::size_t kSnapshotBlocks = 32;
  struct Snapshot {
    std::uint64_t head = 0;
    std::array<std::uint32_t, kSnapshotBlocks> seen{};
    bool operator==(const Snapshot&) const = default;
  };
  [[nodiscard]] Snapshot snapshot() const {
    Snapshot out;
    out.head = head_.load(std::memory_order_relaxed);
    for (std::uint64_t i = 0; i < kSnapshotBlocks && i <= out.head; ++i) {
      const std::uint64_t block = out.head - i;
      const std::uint64_t word = words_[block % kBlocks].load(std::memory_order_relaxed);
      const bool same = static_cast<std::uint32_t>(word >> 32) == tag_of(block);
      out.seen[i] = same ? static_cast<std::uint32_t>(word) : 0;
    }
    return out;
  }
  void restore(const Snapshot& from) {
    reset();
    head_.store(from.head, std::memory_order_relaxed);
    for (std::uint64_t i = 0; i < kBlocks && i <= from.head; ++i) {
      const std::uint64_t block = from.head - i;
      const std::uint32_t seen = i < kSnapshotBlocks ? from.seen[i] : ~std::uint32_t{0};
      words_[block % kBlocks].store(std::uint64_t{tag_of(block)} << 32 | seen, std::memory_order_relaxed);
    }
  }

  // Forgets everything. Not concurrently with use.
  void reset() {
    head_.store(0, std::memory_order_relaxed);
    for (auto& word : words_) word.store(0, std::memory_order_relaxed);
  }

 private:
  // The block's low bits are its place in the ring; the rest is folded into 32 bits.
  static std::uint32_t tag_of(std::uint64_t block) {
    const std::uint64_t lap = block / kBlocks;
    return static_cast<std::uint32_t>(lap ^ (lap >> 32));
  }
  // Which of `wanted` bits of `block` are not yet set, given the word of its place.
  static std::uint32_t acceptable(std::uint64_t word, std::uint64_t block, std::uint32_t wanted) {
    const bool same = static_cast<std::uint32_t>(word >> 32) == tag_of(block);
    return same ? wanted & ~static_cast<std::uint32_t>(word) : wanted;
  }

  std::uint32_t accept_bits(std::uint64_t block, std::uint32_t wanted) {
    std::uint64_t head = head_.load(std::memory_order_relaxed);
    while (block > head && !head_.compare_exchange_weak(head, block, std::memory_order_release)) {
    }
    auto& place = words_[block % kBlocks];
    std::uint64_t word = place.load(std::memory_order_acquire);
    for (;;) {
      if (block + kBlocks <= head_.load(std::memory_order_relaxed)) return 0;
      const std::uint32_t got = acceptable(word, block, wanted);
      if (got == 0) return 0;
      const bool same = static_cast<std::uint32_t>(word >> 32) == tag_of(block);
      const std::uint32_t kept = same ? static_cast<std::uint32_t>(word) : 0;
      const std::uint64_t next = std::uint64_t{tag_of(block)} << 32 | kept | got;
      if (place.compare_exchange_weak(word, next, std::memory_order_acq_rel, std::memory_order_acquire)) return got;
    }
  }

  std::atomic<std::uint64_t> head_{0};                       // newest block accepted
  std::array<std::atomic<std::uint64_t>, kBlocks> words_{};  // tag of the block << 32 | seen bits
};

}  // namespace penstock::wireguard
