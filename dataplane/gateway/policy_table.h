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

#include "dataplane/core/packet/packet.h"
#include "dataplane/core/policy/view.h"

namespace penstock::gateway {

class PolicyTable {
 public:
  explicit PolicyTable(std::size_t max_peers)
      : size_(max_peers),
        policies_(std::make_unique<policy::PolicyView::Entry[]>(max_peers)),
        epochs_(std::make_unique<std::atomic<std::uint32_t>[]>(max_peers)) {}

  [[nodiscard]] std::size_t size() const { return size_; }

  [[nodiscard]] const policy::PeerPolicy* find(PeerIndex peer) const {
    return peer < size_ ? policies_[peer].load(std::memory_order_acquire) : nullptr;
  }

  // The whole array, for the translator. Valid as long as the table.
  [[nodiscard]] policy::PolicyView view() const { return {policies_.get(), size_, epochs_.get()}; }

  // `policy` may be nullptr (the peer is gone). Returns what stood there, for the caller to free after a grace period.
  // Precondition: peer < size().
  const policy::PeerPolicy* publish(PeerIndex peer, const policy::PeerPolicy* policy) {
    const policy::PeerPolicy* old = policies_[peer].exchange(policy, std::memory_order_acq_rel);
    epochs_[peer].store(policy == nullptr ? 0 : policy->epoch, std::memory_order_release);
    if (policy == nullptr && old != nullptr) removals_.fetch_add(1, std::memory_order_acq_rel);
    return old;
  }

  // Grows with every peer that lost its policy: workers then look for flows without an owner.
  [[nodiscard]] std::uint32_t removals() const { return removals_.load(std::memory_order_acquire); }

 private:
  std::size_t size_;
  std::atomic<std::uint32_t> removals_{0};
  std::unique_ptr<policy::PolicyView::Entry[]> policies_;
  std::unique_ptr<std::atomic<std::uint32_t>[]> epochs_;  // of the policies
};

}  // namespace penstock::gateway
