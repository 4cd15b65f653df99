// Frames, buffers and ports in memory for the flood experiment.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/runtime/packet_io.h"

namespace penstock::perf {

using Frame = std::vector<std::uint8_t>;

inline constexpr MacAddress kHostMac = {2, 0, 0, 0, 0, 0x99};

// Ethernet, IPv4 and UDP around a payload.
[[nodiscard]] inline Frame udp_frame(const MacAddress& to, const Endpoint& source, const Endpoint& destination,
                                     Bytes payload) {
  Frame out(14 + 20 + 8 + payload.size());
  std::memcpy(out.data(), to.data(), 6);
  std::memcpy(out.data() + 6, kHostMac.data(), 6);
  out[12] = 8;
  const auto put16 = [&out](std::size_t at, std::size_t value) {
    out[at] = static_cast<std::uint8_t>(value >> 8);
    out[at + 1] = static_cast<std::uint8_t>(value);
  };
  std::uint8_t* const ip = out.data() + 14;
  ip[0] = 0x45;
  put16(16, out.size() - 14);
  ip[8] = 64;
  ip[9] = 17;
  std::memcpy(ip + 12, source.address.wire().data(), 4);
  std::memcpy(ip + 16, destination.address.wire().data(), 4);
  const be16 checksum = checksum_finish(checksum_add(0, Bytes{ip, 20}));
  std::memcpy(ip + 10, &checksum, 2);
  put16(34, source.port);
  put16(36, destination.port);
  put16(38, 8 + payload.size());
  std::memcpy(out.data() + 42, payload.data(), payload.size());
  const Bytes datagram = Bytes{out}.subspan(34);
  const auto length = static_cast<std::uint32_t>(datagram.size());
  const ChecksumSum addresses = checksum_pseudo_header(source.address, destination.address, ip_protocol::udp, length);
  be16 sum = checksum_finish(checksum_add(addresses, datagram));
  if (sum == be16{}) sum = be16::from_host(0xffff);  // 0: none
  std::memcpy(out.data() + 40, &sum, 2);
  return out;
}

[[nodiscard]] inline Endpoint udp_endpoint(const Frame& frame, bool source) {
  const std::size_t at = source ? 0 : 1;
  return {IpAddress::from_wire(Bytes{frame}.subspan(26 + 4 * at, 4)),
          static_cast<std::uint16_t>(frame[34 + 2 * at] << 8 | frame[35 + 2 * at])};
}

// The answer to an ARP request for whatever address it asks for; empty when the frame is none.
[[nodiscard]] inline Frame arp_answer(const Frame& request) {
  if (request.size() < 42 || request[12] != 8 || request[13] != 6 || request[21] != 1) return {};
  Frame out(request.begin(), request.begin() + 42);
  std::memcpy(out.data(), request.data() + 6, 6);
  std::memcpy(out.data() + 6, kHostMac.data(), 6);
  out[21] = 2;
  std::memcpy(out.data() + 22, kHostMac.data(), 6);
  std::memcpy(out.data() + 28, request.data() + 38, 4);
  std::memcpy(out.data() + 32, request.data() + 22, 10);
  return out;
}

// Every thread keeps some buffers; the rest is behind a lock that is taken for many at a time.
class BufferStock {
 public:
  BufferStock(std::size_t count, std::size_t room)
      : count_(count),
        room_(room),
        stride_((sizeof(Packet) + kMinHeadroom + room + kMinTailroom + 63) / 64 * 64),
        memory_(static_cast<std::uint8_t*>(std::aligned_alloc(64, stride_ * count))) {
    if (memory_ == nullptr) std::abort();
    std::memset(memory_, 0, stride_ * count);
    for (std::size_t i = 0; i < count; ++i) free_.push_back(reinterpret_cast<Packet*>(memory_ + stride_ * i));
  }
  ~BufferStock() { std::free(memory_); }
  BufferStock(const BufferStock&) = delete;
  BufferStock& operator=(const BufferStock&) = delete;

  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] bool has(const Packet* packet) const {
    const auto* at = reinterpret_cast<const std::uint8_t*>(packet);
    return at >= memory_ && at < memory_ + stride_ * count_;
  }
  // `own`: this thread's.
  Packet* take(std::vector<Packet*>& own) {
    if (own.empty()) {
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 0; i < kBatch && !free_.empty(); ++i) {
        own.push_back(free_.back());
        free_.pop_back();
      }
      if (own.empty()) return nullptr;
    }
    auto* packet = new (own.back()) Packet;
    own.pop_back();
    packet->data = reinterpret_cast<std::uint8_t*>(packet + 1) + kMinHeadroom;
    packet->headroom = kMinHeadroom;
    packet->tailroom = static_cast<std::uint16_t>(room_ + kMinTailroom);
    return packet;
  }
  void give_surplus(std::vector<Packet*>& own) {
    if (own.size() < 2 * kBatch) return;
    const std::lock_guard lock(mutex_);
    free_.insert(free_.end(), own.begin() + kBatch, own.end());
    own.resize(kBatch);
  }

 private:
  static constexpr std::size_t kBatch = 256;
  std::size_t count_, room_, stride_;
  std::uint8_t* memory_;
  std::mutex mutex_;
  std::vector<Packet*> free_;
};

// Buffers like any pool's, and a stock of their own for forged messages: these are filled once and go round, as if a
// card wrote them, so that the worker is not charged for making them.
class BenchPool final : public runtime::PacketPool {
 public:
  explicit BenchPool(std::size_t count) : plain_(count, 2048) {}

  Packet* allocate() override { return plain_.take(caches().plain); }
  Packet* take_forged() { return forged_.take(caches().forged); }
  void release(std::span<Packet* const> packets) override {
    Caches& own = caches();
    for (Packet* packet : packets) (forged_.has(packet) ? own.forged : own.plain).push_back(packet);
    plain_.give_surplus(own.plain);
    forged_.give_surplus(own.forged);
  }
  [[nodiscard]] runtime::PoolStats stats() const override { return {plain_.size(), plain_.size()}; }

 private:
  static constexpr std::size_t kForgedBuffers = 8192;  // twice what rings hold of them
  struct Caches {
    std::vector<Packet*> plain, forged;
  };
  static Caches& caches() {
    thread_local Caches own;
    return own;
  }

  BufferStock plain_;
  BufferStock forged_{kForgedBuffers, 256};
};

class BenchPort : public runtime::Port {
 public:
  BenchPort(BenchPool& pool, const MacAddress& mac) : pool_(pool), mac_(mac) {}
  void reclaim_sent(std::uint16_t) override {}
  [[nodiscard]] int wait_descriptor(std::uint16_t) const override { return kMustPoll; }
  [[nodiscard]] const MacAddress& mac() const override { return mac_; }
  [[nodiscard]] const std::string& driver() const override { return driver_; }
  [[nodiscard]] runtime::PortStats stats() const override { return {}; }

 protected:
  bool put(const Frame& frame, PacketBurst& into) {
    Packet* packet = pool_.allocate();
    if (packet == nullptr) return false;
    packet->append(static_cast<std::uint16_t>(frame.size()));
    std::memcpy(packet->data, frame.data(), frame.size());
    into.add(packet);
    return true;
  }
  void take_waiting(std::mutex& mutex, std::deque<Frame>& queue, std::atomic<bool>& waiting, PacketBurst& into) {
    if (!waiting.load(std::memory_order_acquire)) return;
    const std::lock_guard lock(mutex);
    for (; !queue.empty() && !into.full(); queue.pop_front())
      if (!put(queue.front(), into)) break;
    waiting = !queue.empty();
  }
  std::size_t give_back(std::span<Packet* const> frames) {
    pool_.release(frames);
    return frames.size();
  }

  BenchPool& pool_;

 private:
  const MacAddress mac_;
  const std::string driver_ = "memory";
};

class BenchPlatform final : public runtime::Platform {
 public:
  void enter_thread() override {}
  void leave_thread() override {}
};

}  // namespace penstock::perf
