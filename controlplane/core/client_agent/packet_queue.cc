#include "controlplane/core/client_agent/packet_queue.h"

#include <algorithm>
#include <utility>

namespace penstock::client {

PacketQueue::~PacketQueue() {
  take_all();
}

DropReason PacketQueue::push(Bytes packet, std::uint64_t digest, Instant now) {
  const auto same = std::find_if(packets_.begin(), packets_.end(),
                                 [&](const QueuedPacket& queued) { return queued.digest == digest; });
  if (same != packets_.end()) {
    bytes_ -= same->bytes.size();
    budget_->bytes -= same->bytes.size();
    same->bytes.assign(packet.begin(), packet.end());
    bytes_ += packet.size();
    budget_->bytes += packet.size();
    return DropReason::none;
  }
  if (packets_.size() >= kMaxPackets || bytes_ + packet.size() > kMaxBytes) return DropReason::wg_queue_full;
  if (budget_->packets >= budget_->max_packets || budget_->bytes + packet.size() > budget_->max_bytes)
    return DropReason::wg_queue_full;
  packets_.push_back({{packet.begin(), packet.end()}, digest, now});
  bytes_ += packet.size();
  budget_->bytes += packet.size();
  ++budget_->packets;
  return DropReason::none;
}

std::deque<QueuedPacket> PacketQueue::take_all() {
  for (const QueuedPacket& packet : packets_) release(packet);
  bytes_ = 0;
  return std::exchange(packets_, {});
}

void PacketQueue::release(const QueuedPacket& packet) {
  budget_->bytes -= packet.bytes.size();
  --budget_->packets;
}

}  // namespace penstock::client
