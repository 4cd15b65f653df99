// Packets of applications that wait for an authorisation, a session or a name.
//
// Order is kept; a retransmission of a packet that waits already replaces it in its place (its timestamps are fresher)
// instead of being queued again, so an application that retries for long does not flood the queue; when the queue is
// full the newest packet is refused, because those in front are what connections start with. A refresh of what is
// waited for never touches the queue. All queues of a client share one Budget. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"

namespace penstock::client {

struct QueuedPacket {
  std::vector<std::uint8_t> bytes;
  std::uint64_t digest = 0;
  Instant queued_at{};
};

class PacketQueue {
 public:
  static constexpr std::size_t kMaxPackets = 64;
  static constexpr std::size_t kMaxBytes = 64 * 1024;

  // What all queues together may hold.
  struct Budget {
    std::size_t max_packets = 1024;
    std::size_t max_bytes = 1024 * 1024;
    std::size_t packets = 0;
    std::size_t bytes = 0;
  };

  explicit PacketQueue(Budget& budget) : budget_(&budget) {}
  ~PacketQueue();
  PacketQueue(const PacketQueue&) = delete;
  PacketQueue& operator=(const PacketQueue&) = delete;

  // none when it waits now (or replaced its older copy); wg_queue_full otherwise.
  DropReason push(Bytes packet, std::uint64_t digest, Instant now);
  [[nodiscard]] bool empty() const { return packets_.empty(); }
  [[nodiscard]] std::size_t size() const { return packets_.size(); }
  // When the packet in front came; kNever when empty.
  [[nodiscard]] Instant oldest() const { return packets_.empty() ? kNever : packets_.front().queued_at; }

  // Everything, in order; the queue is empty afterwards.
  std::deque<QueuedPacket> take_all();

 private:
  void release(const QueuedPacket& packet);

  Budget* budget_;
  std::deque<QueuedPacket> packets_;
  std::size_t bytes_ = 0;
};

}  // namespace penstock::client
