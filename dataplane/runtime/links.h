// The rings between workers, handshake threads and the slow thread.
//
// Sizes: a burst of handshakes waits in its own ring, so that a flood fills only that; the others hold a few
// milliseconds of their traffic.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/handshake_gate.h"
#include "dataplane/core/wireguard/handshake_work.h"
#include "dataplane/core/wireguard/known_sources.h"
#include "dataplane/runtime/ring.h"
#include "dataplane/runtime/wakeup.h"

namespace penstock::runtime {

// Between one worker and one handshake thread. Of all threads together they hold the same number of buffers, however
// many there are: a flood may not take those that data needs.
struct HandshakeRings {
  // `strangers_per_s`: how many without a cookie are handed over while the thread is overrun.
  HandshakeRings(std::size_t threads, std::uint32_t strangers_per_s)
      : known(std::max<std::size_t>(1024 / threads, 128)),
        strangers(std::max<std::size_t>(4096 / threads, 256)),
        stranger_limit(strangers_per_s) {}

  // worker -> handshake thread. Sources that are known have a ring to themselves: a flood of strangers fills the other.
  SpscRing<Packet*> known;
  SpscRing<Packet*> strangers;
  // handshake thread -> worker: cookies
  SpscRing<Packet*> replies{1024};
  wireguard::StrangerLimit stranger_limit;  // the worker's
};

struct WorkerLink {
  // worker -> slow thread; handshakes only where there are no threads for them
  SpscRing<Packet*> handshake{1024};
  SpscRing<Packet*> slow{4096};
  SpscRing<Packet*> exception{1024};
  // slow thread -> worker
  SpscRing<Packet*> injected{4096};
  SpscRing<Packet*> from_kernel{512};
  // any worker -> worker
  MpscRing<Packet*> handover{2048};
  Wakeup wakeup;  // the worker's
  std::vector<std::unique_ptr<HandshakeRings>> handshakes;  // by handshake thread

  [[nodiscard]] bool has_input() const {
    for (const auto& rings : handshakes)
      if (!rings->replies.empty()) return true;
    return !injected.empty() || !from_kernel.empty() || !handover.empty();
  }
};

// Between one handshake thread and the slow thread, which has the Device.
struct HandshakeLink {
  SpscRing<wireguard::InitiationWork*> to_device{1024};
  SpscRing<wireguard::InitiationWork*> from_device{1024};
  SpscRing<Packet*> admitted{1024};  // responses and cookie replies, which the Device deals with itself
  Wakeup wakeup;                     // the handshake thread's
  // The load is known to be too high (wireguard/handshake_gate.h): of strangers without a cookie workers hand over no
  // more than may get one (StrangerLimit). On a line that changes seldom.
  alignas(64) std::atomic<bool> overrun{false};
};

struct Links {
  std::vector<std::unique_ptr<WorkerLink>> workers;
  std::vector<std::unique_ptr<HandshakeLink>> handshakes;  // empty: the slow thread does them
  const wireguard::KnownSources* known_sources = nullptr;  // set where there are handshake threads
  std::uint64_t seed = 0;                                  // of the choice of handshake threads
  Wakeup slow;                                             // the slow thread's

  // Once, before any thread starts. Of what the workers hand over while a thread is overrun, twice as much as it has
  // cookies for: not every message has a valid mac1.
  void add_handshake_threads(std::size_t count, const wireguard::KnownSources& known, std::uint64_t random,
                             std::uint32_t cookies_per_s) {
    known_sources = &known;
    seed = random;
    const auto strangers = static_cast<std::uint32_t>(2 * std::uint64_t{cookies_per_s} / workers.size());
    for (std::size_t i = 0; i < count; ++i) {
      handshakes.push_back(std::make_unique<HandshakeLink>());
      for (auto& worker : workers) worker->handshakes.push_back(std::make_unique<HandshakeRings>(count, strangers));
    }
  }

  // All messages of one source go to one thread: its rate, its cookies and the order of its messages are there.
  [[nodiscard]] std::size_t handshake_thread_of(const IpAddress& source) const {
    if (handshakes.size() < 2) return 0;
    return wireguard::seeded_hash(wireguard::source_network(source), seed) % handshakes.size();
  }
};

}  // namespace penstock::runtime
