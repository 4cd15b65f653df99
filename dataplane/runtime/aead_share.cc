#include "dataplane/runtime/aead_share.h"

#include <algorithm>
#include <utility>

namespace penstock::runtime {
namespace {

constexpr std::uint64_t kGeneration = std::uint64_t{1} << 32;
constexpr std::uint64_t kChunkMask = kGeneration - 1;
constexpr std::size_t kWorthSharing = 16;  // jobs

void work(wireguard::AeadContext& context, std::span<wireguard::AeadJob> jobs, bool seal) {
  if (seal) {
    context.seal(jobs);
  } else {
    context.open(jobs);
  }
}

// No lane idle, and no more at a time than that: the last chunk of a burst is what its owner waits for.
std::size_t lanes_here() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512ifma") ? 16 : 8;
}

}  // namespace

AeadShare::AeadShare(std::uint16_t workers)
    : offers_(std::make_unique<Offer[]>(std::size_t{workers} * kSlots)), workers_(workers), chunk_(lanes_here()) {}

// Everything is read before the claim: when the claim succeeds the generation has not changed, so what was read
// belongs to it; and it cannot change until the chunk is done. Whoever has read something of the next offer finds the
// ticket closed: that was stored before (release, acquire).
bool AeadShare::take_chunk(Offer& offer, wireguard::AeadContext& context) const {
  std::uint64_t ticket = offer.ticket.load(std::memory_order_acquire);
  const std::size_t first = static_cast<std::size_t>(ticket & kChunkMask) * chunk_;
  const std::size_t count = offer.count.load(std::memory_order_acquire);
  if (first >= count) return false;
  wireguard::AeadJob* jobs = offer.jobs.load(std::memory_order_acquire);
  const bool seal = offer.seal.load(std::memory_order_acquire);
  if (!offer.ticket.compare_exchange_strong(ticket, ticket + 1, std::memory_order_acq_rel)) return true;
  const std::size_t size = std::min(chunk_, count - first);
  work(context, {jobs + first, size}, seal);
  offer.done.fetch_add(static_cast<std::uint32_t>(size), std::memory_order_release);
  return true;
}

void AeadShare::begin(std::uint16_t owner, unsigned slot, std::span<wireguard::AeadJob> jobs, bool seal) {
  Offer& offer = offer_of(owner, slot);
  const std::uint64_t generation = (offer.ticket.load(std::memory_order_relaxed) & ~kChunkMask) + kGeneration;
  // Closed first: a burst before that was shorter than this one ended with a ticket that would be a chunk of this one.
  offer.ticket.store(generation | kChunkMask, std::memory_order_relaxed);
  offer.jobs.store(jobs.data(), std::memory_order_release);
  offer.count.store(static_cast<std::uint32_t>(jobs.size()), std::memory_order_release);
  offer.seal.store(seal, std::memory_order_release);
  offer.done.store(0, std::memory_order_relaxed);
  offer.ticket.store(generation, std::memory_order_release);
}

void AeadShare::wait(std::uint16_t owner, unsigned slot, wireguard::AeadContext& own) {
  Offer& offer = offer_of(owner, slot);
  while (take_chunk(offer, own)) {
  }
  const std::uint32_t count = offer.count.load(std::memory_order_relaxed);
  while (offer.done.load(std::memory_order_acquire) < count) __builtin_ia32_pause();
}

bool AeadShare::help(std::uint16_t helper, wireguard::AeadContext& context) {
  bool helped = false;
  for (std::uint16_t other = 0; other < workers_; ++other)
    for (unsigned slot = 0; other != helper && slot < kSlots; ++slot)
      while (take_chunk(offer_of(other, slot), context)) helped = true;
  return helped;
}

void SharedAead::run(std::span<wireguard::AeadJob> jobs, bool seal) {
  begin(kAtOnce, jobs, seal);
  wait(kAtOnce);
}

void SharedAead::begin(unsigned slot, std::span<wireguard::AeadJob> jobs, bool seal) {
  offered_[slot] = jobs.size() >= kWorthSharing && share_.anybody_idle();
  if (offered_[slot]) return share_.begin(worker_, slot, jobs, seal);
  if (!jobs.empty()) work(own_, jobs, seal);
}

void SharedAead::wait(unsigned slot) {
  if (std::exchange(offered_[slot], false)) share_.wait(worker_, slot, own_);
}

}  // namespace penstock::runtime
