// Hash index from a 64-bit hash to slots: cache-line buckets of ten 16-bit tags and ten slots.
//
// An entry lies in its first bucket, or, when that is full, in its second (an independent choice) or one of the buckets
// behind the second. A bucket counts how many of "its" entries lie elsewhere and how far, so a look-up of something
// that is not there touches one line almost always. Sized for 80 % load. The caller compares whole keys.
//
// One thread. No allocation after construction.
#pragma once

#include <emmintrin.h>

#include <array>
#include <cstdint>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/flow/zeroed_array.h"

namespace penstock::flow {

class FlowIndex {
 public:
  explicit FlowIndex(std::uint32_t capacity);

  void prefetch(std::uint64_t hash) const { prefetch_read(&buckets_[first(hash)]); }

  // First slot in the first bucket whose tag fits, to prefetch its record; kNoSlot when none does. `absent`: it is in
  // no other bucket either; otherwise the next one is fetched.
  [[nodiscard]] Slot candidate(std::uint64_t hash, bool& absent) const {
    const Bucket& bucket = buckets_[first(hash)];
    const std::uint64_t lanes = matching(bucket, tag_of(hash));
    absent = lanes == 0 && bucket.depth == 0;
    if (lanes != 0) return bucket.slots[lane_of(lanes)];
    if (!absent) prefetch_read(&buckets_[second(hash)]);
    return kNoSlot;
  }

  // The slot for which `matches(slot)` is true among those whose tag fits; kNoSlot when there is none.
  template <typename Matches>
  [[nodiscard]] Slot find(std::uint64_t hash, Matches&& matches) const {
    const std::uint32_t home = first(hash);
    const std::uint16_t tag = tag_of(hash);
    const unsigned depth = buckets_[home].depth;
    std::uint32_t at = home;
    for (unsigned step = 0;; ++step) {
      const Bucket& bucket = buckets_[at];
      for (std::uint64_t lanes = matching(bucket, tag); lanes != 0; lanes = without_first(lanes)) {
        const Slot slot = bucket.slots[lane_of(lanes)];
        if (matches(slot)) return slot;
      }
      if (step == depth) return kNoSlot;
      at = step == 0 ? second(hash) : next(at);
    }
  }

  // False when no bucket within reach has room (not before the table is overfull). The caller has made sure that the
  // key is not there yet.
  bool insert(std::uint64_t hash, Slot slot);
  // The entry of `slot`, inserted with this hash.
  void erase(std::uint64_t hash, Slot slot);

  // Buckets are taken at random, so all of them at once. Any thread.
  void map_ahead() const { buckets_.map_ahead(0, buckets_.size()); }

  [[nodiscard]] std::size_t memory() const { return buckets_.size() * sizeof(Bucket); }

 private:
  static constexpr std::size_t kLanes = 10;
  static constexpr unsigned kMaxDepth = 30;

  struct alignas(64) Bucket {
    std::array<std::uint16_t, kLanes> tags;  // 0: free
    std::uint16_t away;                      // entries of this home that lie elsewhere
    std::uint16_t depth;                     // most steps any of them took since `away` was 0
    std::array<Slot, kLanes> slots;
  };
  static_assert(sizeof(Bucket) == 64);

  static std::uint16_t tag_of(std::uint64_t hash) {
    const auto tag = static_cast<std::uint16_t>(hash >> 48);
    return tag == 0 ? 1 : tag;
  }
  [[nodiscard]] std::uint32_t first(std::uint64_t hash) const { return reduce(static_cast<std::uint32_t>(hash)); }
  [[nodiscard]] std::uint32_t second(std::uint64_t hash) const {
    return reduce(static_cast<std::uint32_t>((hash * 0x9e3779b97f4a7c15ULL) >> 32));
  }
  [[nodiscard]] std::uint32_t next(std::uint32_t at) const { return at + 1 == count_ ? 0 : at + 1; }
  [[nodiscard]] std::uint32_t reduce(std::uint32_t value) const {
    return static_cast<std::uint32_t>((std::uint64_t{value} * count_) >> 32);
  }

  // Two bits per lane that holds `tag`, eight lanes at once.
  static std::uint64_t matching(const Bucket& bucket, std::uint16_t tag) {
    const __m128i wanted = _mm_set1_epi16(static_cast<short>(tag));
    const __m128i first = _mm_load_si128(reinterpret_cast<const __m128i*>(bucket.tags.data()));
    auto found = static_cast<std::uint64_t>(_mm_movemask_epi8(_mm_cmpeq_epi16(first, wanted)));
    found |= bucket.tags[8] == tag ? std::uint64_t{3} << 16 : 0;
    found |= bucket.tags[9] == tag ? std::uint64_t{3} << 18 : 0;
    return found;
  }
  static std::size_t lane_of(std::uint64_t lanes) { return static_cast<std::size_t>(__builtin_ctzll(lanes)) / 2; }
  static std::uint64_t without_first(std::uint64_t lanes) {
    lanes &= lanes - 1;
    return lanes & (lanes - 1);
  }

  ZeroedArray<Bucket> buckets_;
  std::uint32_t count_;
};

}  // namespace penstock::flow
