#include "dataplane/core/nat/openings.h"

#include <utility>

namespace penstock::nat {

Openings::Openings(std::uint16_t capacity) : entries_(capacity) {
  for (std::uint16_t i = capacity; i-- > 0;) {
    entries_[i].next = free_;
    free_ = i;
  }
}

void Openings::link(Index index, Instant due) {
  Opening& entry = entries_[index];
  entry.due = due;
  entry.previous = last_;
  entry.next = kNone;
  (last_ == kNone ? first_ : entries_[last_].next) = index;
  last_ = index;
}

void Openings::unlink(Index index) {
  const Opening& entry = entries_[index];
  (entry.previous == kNone ? first_ : entries_[entry.previous].next) = entry.next;
  (entry.next == kNone ? last_ : entries_[entry.next].previous) = entry.previous;
}

Openings::Index Openings::open(flow::Slot slot, Packet* syn, Instant now) {
  if (free_ == kNone) return kNone;
  const Index index = free_;
  free_ = entries_[index].next;
  entries_[index] = Opening{};
  entries_[index].syn = syn;
  entries_[index].slot = slot;
  link(index, now + kAnswerTime);
  return index;
}

void Openings::wait_again(Index index, Instant now) {
  unlink(index);
  link(index, now + kAnswerTime);
}

Packet* Openings::close(Index index) {
  unlink(index);
  Packet* syn = std::exchange(entries_[index].syn, nullptr);
  entries_[index].next = free_;
  free_ = index;
  return syn;
}

}  // namespace penstock::nat
