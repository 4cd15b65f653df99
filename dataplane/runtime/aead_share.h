// One worker's encryption done by several: what lets a single fat tunnel use more than one core.
//
// A tunnel's packets arrive at one worker (the NIC's hash knows no more than its addresses), and there they stay, in
// order: replay window, flows, routes and transmission are that worker's alone. Only the work on the bytes is shared: a
// burst to open or seal is offered in chunks, which the worker itself and any worker that has nothing to do take one by
// one until none is left. The owner may do something else in between (gateway/pipeline.h), and waits for a burst before
// it uses it, so nothing overtakes anything.
//
// Who helps is polling without traffic at that moment; who is busy is not disturbed, and a burst is offered only while
// somebody idles. A helper that is descheduled in the middle of a chunk holds the owner up: for workers with cores of
// their own (`poll: busy`) only.
//
// Threads: begin() and wait() by the owning worker, help() by the others. Nothing is written per packet that others
// read.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dataplane/core/wireguard/aead.h"

namespace penstock::runtime {

class AeadShare {
 public:
  // Of each worker: what it may have begun at a time (wireguard::AeadOffers), and one burst that it waits for at once.
  static constexpr unsigned kSlots = wireguard::AeadOffers::kSlots + 1;

  explicit AeadShare(std::uint16_t workers);

  // Worker `owner` has these jobs done, with `own` for its part. A slot has one burst at a time.
  void begin(std::uint16_t owner, unsigned slot, std::span<wireguard::AeadJob> jobs, bool seal);
  void wait(std::uint16_t owner, unsigned slot, wireguard::AeadContext& own);

  // An idle worker does what others offer. True when there was something.
  bool help(std::uint16_t helper, wireguard::AeadContext& context);

  // Whether this worker would help: told when it changes.
  void set_idle(bool idle) { idle_.fetch_add(idle ? 1U : ~0U, std::memory_order_relaxed); }
  [[nodiscard]] bool anybody_idle() const { return idle_.load(std::memory_order_relaxed) != 0; }

 private:
  struct alignas(64) Offer {
    // Generation and next chunk; a claim is an increment of exactly what was read. Chunks beyond the last: none left.
    // All ones: the offer is being written.
    std::atomic<std::uint64_t> ticket{0};
    std::atomic<std::uint32_t> done{0};
    // Constant while chunks of the generation can be claimed or are under way.
    std::atomic<wireguard::AeadJob*> jobs{nullptr};
    std::atomic<std::uint32_t> count{0};
    std::atomic<bool> seal{false};
  };

  bool take_chunk(Offer& offer, wireguard::AeadContext& context) const;
  [[nodiscard]] Offer& offer_of(std::uint16_t worker, unsigned slot) const { return offers_[worker * kSlots + slot]; }

  std::unique_ptr<Offer[]> offers_;
  std::uint16_t workers_;
  std::size_t chunk_;  // jobs: as many as the widest backend here has lanes
  alignas(64) std::atomic<std::uint32_t> idle_{0};
};

// A worker's backend with helpers: AeadShare for bursts worth sharing, the backend alone otherwise.
class SharedAead final : public wireguard::AeadContext, public wireguard::AeadOffers {
 public:
  SharedAead(wireguard::AeadContext& own, AeadShare& share, std::uint16_t worker)
      : own_(own), share_(share), worker_(worker) {}
  void seal(std::span<wireguard::AeadJob> jobs) override { run(jobs, true); }
  void open(std::span<wireguard::AeadJob> jobs) override { run(jobs, false); }
  [[nodiscard]] std::string_view name() const override { return own_.name(); }
  void begin(unsigned slot, std::span<wireguard::AeadJob> jobs, bool seal) override;
  void wait(unsigned slot) override;

  // Somebody would take part.
  [[nodiscard]] bool shared() const { return share_.anybody_idle(); }
  // This worker has nothing to do, or has again.
  void set_idle(bool idle) { share_.set_idle(idle); }
  void help() { share_.help(worker_, own_); }

 private:
  static constexpr unsigned kAtOnce = AeadOffers::kSlots;  // the slot of what is waited for at once

  void run(std::span<wireguard::AeadJob> jobs, bool seal);

  wireguard::AeadContext& own_;
  AeadShare& share_;
  std::uint16_t worker_;
  std::array<bool, AeadShare::kSlots> offered_{};
};

}  // namespace penstock::runtime
