// What the parts of the slow path share: configuration, buffers, randomness, and where packets go. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet_source.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/icmp_error.h"
#include "dataplane/gateway/messages.h"
#include "dataplane/gateway/slow_path.h"
#include "dataplane/gateway/token_bucket.h"

namespace penstock::gateway {

struct SlowContext {
  const Configuration& configuration;
  PacketSource& packets;
  Random& random;
  const SlowPathLimits limits;

  SlowOutput output{};
  std::array<std::uint64_t, kDropReasonCount> drops{};
  TokenBucket error_limit{100, 100};

  void drop(Packet* packet, DropReason reason) {
    packet->drop_reason = reason;
    ++drops[static_cast<std::size_t>(reason)];
    output.freed.push_back(packet);
  }
  // Hands a packet to a worker.
  void emit(Packet* packet, ToWorker kind, std::uint16_t worker) {
    set_kind(*packet, kind);
    packet->rss_worker = worker;
    output.to_workers.push_back(packet);
  }
  // An empty packet marked as our own; nullptr (counted) when the pool is empty.
  Packet* allocate();
  // Drops `packet` and answers its sender with an ICMP error, where one may be sent. `packet` is one from the LAN's
  // side of the translation: its sender is found through its flow.
  void refuse(Packet* packet, Unreachable what, DropReason reason, Instant now);
};

}  // namespace penstock::gateway
