// The rings between workers and the slow thread, one set per worker.
//
// Sizes: a burst of handshakes waits in its own ring, so that a flood fills only that; the others hold a few
// milliseconds of their traffic.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/runtime/ring.h"
#include "dataplane/runtime/wakeup.h"

namespace penstock::runtime {

struct WorkerLink {
  // worker -> slow thread
  SpscRing<Packet*> handshake{1024};
  SpscRing<Packet*> slow{4096};
  SpscRing<Packet*> exception{1024};
  // slow thread -> worker
  SpscRing<Packet*> injected{4096};
  SpscRing<Packet*> from_kernel{512};
  // any worker -> worker
  MpscRing<Packet*> handover{2048};
  Wakeup wakeup;  // the worker's

  [[nodiscard]] bool has_input() const { return !injected.empty() || !from_kernel.empty() || !handover.empty(); }
};

struct Links {
  std::vector<std::unique_ptr<WorkerLink>> workers;
  Wakeup slow;  // the slow thread's
};

}  // namespace penstock::runtime
