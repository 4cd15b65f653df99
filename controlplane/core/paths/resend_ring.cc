#include "controlplane/core/paths/resend_ring.h"

#include <algorithm>

namespace penstock::paths {

ResendRing::Packet& ResendRing::push(Bytes datagram, std::uint16_t over, Instant now) {
  while (!packets_.empty() && (packets_.size() >= kMaxPackets || bytes_ + datagram.size() > kMaxBytes)) pop_front();
  bytes_ += datagram.size();
  Packet& added = packets_.emplace_back();
  added.bytes.swap(spare_);  // its memory
  added.bytes.assign(datagram.begin(), datagram.end());
  added.sent_over = over;
  added.sent = now;
  return added;
}

void ResendRing::pop_front() {
  bytes_ -= packets_.front().bytes.size();
  spare_.swap(packets_.front().bytes);
  packets_.pop_front();
}

void ResendRing::confirm(Instant proven) {
  while (!packets_.empty()) {
    const Packet& first = packets_.front();
    if (first.waiting || first.last() >= proven) return;
    pop_front();
  }
}

void ResendRing::drop_sent_before(Instant then) {
  while (!packets_.empty() && packets_.front().sent < then) pop_front();
}

void ResendRing::give_up() {
  for (Packet& packet : packets_) packet.waiting = false;
}

void ResendRing::doubt(std::uint16_t path, Instant since) {
  // What left in the same moment may have left before.
  for (Packet& packet : packets_)
    packet.waiting = !packet.arrived && !(packet.sent_over == path && packet.sent > since) &&
                     !(packet.copied_over == path && packet.copied > since);
}

bool ResendRing::doubt_sent(std::uint16_t path, Instant since, bool again) {
  bool any = false;
  for (Packet& packet : packets_) {
    const bool first = packet.sent_over == path && packet.sent >= since;
    const bool copy = packet.copied_over == path && packet.copied >= since;
    if (first) packet.sent_over = 0;
    if (copy) packet.copied_over = 0;
    if (!again || packet.arrived || !(first || copy)) continue;
    packet.waiting = any = true;
  }
  return any;
}

void ResendRing::learn(const wireguard::ReceptionReport& report) {
  for (Packet& packet : packets_) {
    if (packet.arrived || report.of(packet.bytes) != wireguard::ReceptionReport::Fate::arrived) continue;
    packet.arrived = true;
    packet.waiting = false;
  }
}

bool ResendRing::doubt_missing(const wireguard::ReceptionReport& report, Instant proven) {
  using Fate = wireguard::ReceptionReport::Fate;
  bool any = false;
  for (Packet& packet : packets_) {
    if (packet.arrived || packet.waiting || packet.last() >= proven || packet.repeats == kMaxRepeats) continue;
    if (report.of(packet.bytes) != Fate::missing) continue;
    ++packet.repeats;
    packet.waiting = any = true;
  }
  while (!packets_.empty()) {
    const Packet& first = packets_.front();
    if (!first.arrived && (first.waiting || first.last() >= proven)) break;
    pop_front();
  }
  return any;
}

void ResendRing::clear() {
  packets_.clear();
  bytes_ = 0;
}

bool DuplicationBudget::take(std::size_t bytes, Instant now) {
  const double seconds = std::clamp(std::chrono::duration<double>(now - filled_).count(), 0.0, kBurstSeconds);
  filled_ = now;
  packets_ = std::min(packets_ + seconds * kPacketsPerSecond, kPacketsPerSecond * kBurstSeconds);
  bytes_ = std::min(bytes_ + seconds * kBytesPerSecond, kBytesPerSecond * kBurstSeconds);
  const auto size = static_cast<double>(bytes);
  if (packets_ < 1 || bytes_ < size) return false;
  packets_ -= 1;
  bytes_ -= size;
  return true;
}

Instant DuplicationBudget::next(std::size_t bytes, Instant now) const {
  const double missing =
      std::max((1 - packets_) / kPacketsPerSecond, (static_cast<double>(bytes) - bytes_) / kBytesPerSecond);
  const auto wait = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::max(missing, 0.0)));
  return std::max(filled_, now) + wait + std::chrono::milliseconds{1};
}

}  // namespace penstock::paths
