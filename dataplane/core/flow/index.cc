#include "dataplane/core/flow/index.h"

#include <algorithm>

namespace penstock::flow {

FlowIndex::FlowIndex(std::uint32_t capacity)
    : buckets_{std::max<std::size_t>(4, std::size_t{capacity} * 5 / 4 / kLanes + 1)},
      count_{static_cast<std::uint32_t>(buckets_.size())} {}

bool FlowIndex::insert(std::uint64_t hash, Slot slot) {
  if (count_ == 0) return false;
  Bucket& home = buckets_[first(hash)];
  std::uint32_t at = first(hash);
  for (unsigned step = 0; step <= kMaxDepth; ++step) {
    Bucket& bucket = buckets_[at];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (bucket.tags[lane] != 0) continue;
      bucket.tags[lane] = tag_of(hash);
      bucket.slots[lane] = slot;
      if (step > 0) {
        ++home.away;
        home.depth = std::max(home.depth, static_cast<std::uint16_t>(step));
      }
      return true;
    }
    at = step == 0 ? second(hash) : next(at);
  }
  return false;
}

void FlowIndex::erase(std::uint64_t hash, Slot slot) {
  Bucket& home = buckets_[first(hash)];
  const unsigned depth = home.depth;
  std::uint32_t at = first(hash);
  for (unsigned step = 0; step <= depth; ++step) {
    Bucket& bucket = buckets_[at];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (bucket.tags[lane] == 0 || bucket.slots[lane] != slot) continue;
      bucket.tags[lane] = 0;
      if (step > 0 && --home.away == 0) home.depth = 0;
      return;
    }
    at = step == 0 ? second(hash) : next(at);
  }
}

}  // namespace penstock::flow
