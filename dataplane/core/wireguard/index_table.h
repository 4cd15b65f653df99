// Which receiver indices are ours, and whose. An index is 32 random bits: the low ones are its slot, the others the tag
// that a message must carry too, so that an index of a dead session hits its successor in the slot only by chance.
// Slots are taken from a part at the front that grows with use and is at most half full: a few tries find a free one,
// and a table sized for a million peers costs what those that are there need. One thread (workers: DataPath's table).
#pragma once

#include <bit>
#include <cstdint>
#include <optional>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

class IndexTable {
 public:
  static std::size_t slots_for(std::size_t max_used) { return std::bit_ceil(max_used * 2); }

  explicit IndexTable(std::size_t max_used)
      : owners_(slots_for(max_used)),
        mask_(static_cast<std::uint32_t>(owners_.size() - 1)),
        in_use_mask_(mask_ & kFirstPart),
        max_used_(max_used) {}

  // Of the part that is used first. Any thread.
  void map_front() const { owners_.map_front(); }

  // nullopt: the table is full.
  std::optional<std::uint32_t> allocate(PeerIndex peer, Random& random) {
    if (used_ >= max_used_) return std::nullopt;
    while (used_ * 2 >= std::size_t{in_use_mask_} + 1 && in_use_mask_ < mask_) in_use_mask_ = in_use_mask_ * 2 + 1;
    for (;;) {
      // The bits between the front part and the whole table are zero; all others random.
      const std::uint32_t index = random.next_u32() & ~(mask_ ^ in_use_mask_);
      Owner* owner = &owners_[index & mask_];
      if (owner->peer_plus_one != 0) continue;
      *owner = Owner{index, peer + 1};
      ++used_;
      return index;
    }
  }

  // An index that an earlier process has given out. False: its slot is taken, or the table is full.
  bool take(std::uint32_t index, PeerIndex peer) {
    Owner& owner = owners_[index & mask_];
    if (used_ >= max_used_ || owner.peer_plus_one != 0) return false;
    owner = Owner{index, peer + 1};
    ++used_;
    return true;
  }

  void release(std::uint32_t index) {
    Owner& owner = owners_[index & mask_];
    if (owner.peer_plus_one == 0 || owner.index != index) return;
    owner = Owner{};
    --used_;
  }

  [[nodiscard]] PeerIndex owner(std::uint32_t index) const {
    const Owner& owner = owners_[index & mask_];
    return owner.peer_plus_one != 0 && owner.index == index ? owner.peer_plus_one - 1 : kNoPeer;
  }

  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  static constexpr std::uint32_t kFirstPart = (1U << 16) - 1;

  struct Owner {
    std::uint32_t index;
    std::uint32_t peer_plus_one;  // 0: free
  };
  ZeroedArray<Owner> owners_;
  std::uint32_t mask_;
  std::uint32_t in_use_mask_;  // never above mask_
  std::size_t max_used_;
  std::size_t used_ = 0;
};

}  // namespace penstock::wireguard
