// Buffers for packets that are made here rather than received: ICMP errors, RSTs, fragments, replies.
#pragma once

#include "dataplane/core/packet/packet.h"

namespace penstock {

// Implemented by io over a worker's mempool cache, by tests and the simulation over the heap. One thread per object.
class PacketSource {
 public:
  virtual ~PacketSource() = default;
  // An empty packet (length 0) with at least kMinHeadroom before `data` and kMinTailroom beyond 9000 (or the port's
  // MTU) usable bytes; nullptr when the pool is empty.
  virtual Packet* allocate() = 0;
};

}  // namespace penstock
