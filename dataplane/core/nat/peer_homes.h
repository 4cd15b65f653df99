// Which worker has the flows of which peer, when there are several workers.
//
// A peer's flows live with one worker, its home: the first that needs one for it, which is the one to which the NIC's
// hash brings the peer's tunnel. So packets from tunnels are not handed over as long as the peer stays where it is, and
// every worker knows at a glance whether a peer is its own. When its last flow has ended, the peer is nobody's again; a
// peer that has moved meanwhile, so that another worker receives it, finds its new home then.
//
// Shared by all workers. A byte per peer, changed twice in the life of a peer's flows.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

class PeerHomes {
 public:
  // `max_peers`: peers at or above have their home wherever they are asked for. At most 254 workers.
  explicit PeerHomes(std::uint32_t max_peers)
      : size_(max_peers), homes_(std::make_unique<std::atomic<std::uint8_t>[]>(max_peers)) {}

  // The peer's home; `worker` becomes it when there is none.
  [[nodiscard]] std::uint16_t find_or_claim(PeerIndex peer, std::uint16_t worker) {
    if (peer >= size_) return worker;
    std::uint8_t home = homes_[peer].load(std::memory_order_relaxed);
    if (home == kNone) {
      const auto mine = static_cast<std::uint8_t>(worker + 1);
      if (homes_[peer].compare_exchange_strong(home, mine, std::memory_order_relaxed)) return worker;
    }
    return static_cast<std::uint16_t>(home - 1);
  }

  // `worker` has no flow of the peer any more.
  void leave(PeerIndex peer, std::uint16_t worker) {
    if (peer >= size_) return;
    auto mine = static_cast<std::uint8_t>(worker + 1);
    homes_[peer].compare_exchange_strong(mine, kNone, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint8_t kNone = 0;
  std::uint32_t size_;
  std::unique_ptr<std::atomic<std::uint8_t>[]> homes_;
};

}  // namespace penstock::nat
