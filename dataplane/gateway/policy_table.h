// PeerIndex -> PeerPolicy, as workers read it: a flat array of RCU pointers.
//
// Writer: one thread (the runtime's main thread). It publishes a sealed snapshot and frees the old one, which `publish`
// returns, after a grace period. Readers: workers and the slow thread; a pointer is valid until their next quiescent
// state. A peer without policy reads nullptr and may send nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "dataplane/core/packet/packet.h"
#include "dataplane/core/policy/snapshot.h"

namespace penstock::gateway {

class PolicyTable {
 public:
  explicit PolicyTable(std::size_t max_peers)
      : size_(max_peers), policies_(std::make_unique<std::atomic<const policy::PeerPolicy*>[]>(max_peers)) {}

  [[nodiscard]] std::size_t size() const { return size_; }

  [[nodiscard]] const policy::PeerPolicy* find(PeerIndex peer) const {
    return peer < size_ ? policies_[peer].load(std::memory_order_acquire) : nullptr;
  }

  // The whole array, for the translator. Valid as long as the table.
  [[nodiscard]] std::span<const std::atomic<const policy::PeerPolicy*>> view() const {
    return {policies_.get(), size_};
  }

  // `policy` may be nullptr (the peer is gone). Returns what stood there, for the caller to free after a grace period.
  // Precondition: peer < size().
  const policy::PeerPolicy* publish(PeerIndex peer, const policy::PeerPolicy* policy) {
    const policy::PeerPolicy* old = policies_[peer].exchange(policy, std::memory_order_acq_rel);
    if (policy == nullptr && old != nullptr) removals_.fetch_add(1, std::memory_order_acq_rel);
    return old;
  }

  // Grows with every peer that lost its policy: workers then look for flows without an owner.
  [[nodiscard]] std::uint32_t removals() const { return removals_.load(std::memory_order_acquire); }

 private:
  std::size_t size_;
  std::atomic<std::uint32_t> removals_{0};
  std::unique_ptr<std::atomic<const policy::PeerPolicy*>[]> policies_;
};

}  // namespace penstock::gateway
