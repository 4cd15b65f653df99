// TCP SYNs from outside that nobody waited for: kept until it is time to tell their senders so, because the client that
// they are for may be about to open the same connection from its side (RFC 5382 REQ-4, RFC 6146 §3.5.2.2).
//
// All wait equally long, so a ring in order of arrival is in order of time. Bounded; owns the packets it keeps. One
// thread, no allocation after construction.
#pragma once

#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

class UnsolicitedSyns {
 public:
  explicit UnsolicitedSyns(std::uint16_t capacity) : entries_(capacity) {}

  // False: no room; the packet stays the caller's.
  bool keep(Packet* syn, Instant due) {
    if (count_ == entries_.size()) return false;
    entries_[(first_ + count_++) % entries_.size()] = {syn, due};
    return true;
  }
  // The oldest, which becomes the caller's; nullptr: none is left.
  Packet* take() {
    if (count_ == 0) return nullptr;
    Packet* const syn = entries_[first_].syn;
    first_ = (first_ + 1) % entries_.size();
    --count_;
    return syn;
  }
  [[nodiscard]] Instant poll_timeout() const { return count_ == 0 ? kNever : entries_[first_].due; }

 private:
  struct Entry {
    Packet* syn = nullptr;
    Instant due{};
  };
  std::vector<Entry> entries_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

}  // namespace penstock::nat
