// Deadlines of many peers, one each: a 4-ary heap that knows where every element stands, so that moving a deadline is
// O(log n) and only peers that have one take room. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::wireguard {

class TimerHeap {
 public:
  static constexpr std::uint32_t kNowhere = 0xffffffff;

  [[nodiscard]] bool empty() const { return heap_.empty(); }
  // Precondition of both: !empty().
  [[nodiscard]] Instant next_at() const { return heap_.front().at; }
  [[nodiscard]] PeerIndex next_peer() const { return heap_.front().peer; }

  // kNever removes.
  void set(PeerIndex peer, Instant at) {
    if (peer >= place_.size()) place_.resize(std::size_t{peer} + 1, kNowhere);
    const std::uint32_t place = place_[peer];
    if (at == kNever) {
      if (place != kNowhere) remove(place);
      return;
    }
    if (place == kNowhere) {
      heap_.push_back({at, peer});
      place_[peer] = static_cast<std::uint32_t>(heap_.size() - 1);
      rise(place_[peer]);
      return;
    }
    const bool earlier = at < heap_[place].at;
    heap_[place].at = at;
    if (earlier) {
      rise(place);
    } else {
      sink(place);
    }
  }

 private:
  static constexpr std::uint32_t kArity = 4;
  struct Entry {
    Instant at;
    PeerIndex peer;
  };

  void put(std::uint32_t place, const Entry& entry) {
    heap_[place] = entry;
    place_[entry.peer] = place;
  }

  void rise(std::uint32_t place) {
    const Entry entry = heap_[place];
    while (place > 0) {
      const std::uint32_t parent = (place - 1) / kArity;
      if (heap_[parent].at <= entry.at) break;
      put(place, heap_[parent]);
      place = parent;
    }
    put(place, entry);
  }

  void sink(std::uint32_t place) {
    const Entry entry = heap_[place];
    const auto size = static_cast<std::uint32_t>(heap_.size());
    for (;;) {
      const std::uint32_t first = place * kArity + 1;
      if (first >= size) break;
      std::uint32_t least = first;
      for (std::uint32_t child = first + 1; child < std::min(first + kArity, size); ++child)
        if (heap_[child].at < heap_[least].at) least = child;
      if (entry.at <= heap_[least].at) break;
      put(place, heap_[least]);
      place = least;
    }
    put(place, entry);
  }

  void remove(std::uint32_t place) {
    place_[heap_[place].peer] = kNowhere;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (place == heap_.size()) return;
    put(place, last);
    rise(place);
    sink(place_[last.peer]);
  }

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> place_;  // by peer
};

}  // namespace penstock::wireguard
