// The published policies as workers see them, indexed by PeerIndex; a null entry or an index beyond the end: no such peer.
//
// Whoever uses a view holds the read side of its pointers for as long. Epochs never repeat under one index, not even for
// another peer that gets the slot later (they come from one counter), and none is 0. So the epoch alone tells whether a
// verdict still stands, without a look at the policy; where epochs stand beside each other (PolicyTable), most peers'
// share a line of the cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/policy/snapshot.h"

namespace penstock::policy {

class PolicyView {
 public:
  using Entry = std::atomic<const PeerPolicy*>;

  PolicyView() = default;
  // `epochs`: as many, 0 where there is no policy; nullptr: they are looked up in the policies.
  PolicyView(const Entry* policies, std::size_t size, const std::atomic<std::uint32_t>* epochs = nullptr)
      : policies_(policies), size_(size), epochs_(epochs) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const Entry& operator[](std::size_t peer) const { return policies_[peer]; }

  // 0: no policy.
  [[nodiscard]] std::uint32_t epoch(PeerIndex peer) const {
    if (peer >= size_) return 0;
    if (epochs_ != nullptr) return epochs_[peer].load(std::memory_order_acquire);
    const PeerPolicy* policy = policies_[peer].load(std::memory_order_acquire);
    return policy == nullptr ? 0 : policy->epoch;
  }
  void prefetch_epoch(PeerIndex peer) const {
    if (peer < size_ && epochs_ != nullptr) prefetch_read(&epochs_[peer]);
  }

 private:
  const Entry* policies_ = nullptr;
  std::size_t size_ = 0;
  const std::atomic<std::uint32_t>* epochs_ = nullptr;
};

}  // namespace penstock::policy
