// Ports and buffers in memory for tests of the engine: frames go in and come out as byte vectors, from any thread.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <new>

#include "dataplane/runtime/packet_io.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::runtime::test {

using gateway::test::Octets;

// Every buffer is its own allocation, so that a sanitizer sees what leaves it.
class MemoryPool final : public PacketPool {
 public:
  static constexpr std::uint16_t kRoom = 9216;
  static constexpr std::uint64_t kSize = 4096;

  Packet* allocate() override {
    if (out_.fetch_add(1) >= kSize) {
      out_.fetch_sub(1);
      return nullptr;
    }
    constexpr std::size_t kBytes = sizeof(Packet) + kMinHeadroom + kRoom + kMinTailroom;
    auto* packet = new (std::aligned_alloc(alignof(Packet), (kBytes + 63) / 64 * 64)) Packet;
    packet->data = reinterpret_cast<std::uint8_t*>(packet + 1) + kMinHeadroom;
    packet->headroom = kMinHeadroom;
    packet->tailroom = kRoom + kMinTailroom;
    return packet;
  }
  void release(std::span<Packet* const> packets) override {
    for (Packet* packet : packets) std::free(packet);
    out_.fetch_sub(packets.size());
  }
  [[nodiscard]] PoolStats stats() const override { return {kSize - out_.load(), kSize}; }

 private:
  std::atomic<std::uint64_t> out_{0};
};

// A port whose wire is in the test's hands. With `wakes` it has a descriptor to sleep on, otherwise it must be polled.
class MemoryPort final : public Port {
 public:
  MemoryPort(MemoryPool& pool, const MacAddress& mac, bool wakes)
      : pool_(pool), mac_(mac), descriptor_(wakes ? ::eventfd(0, EFD_NONBLOCK) : -1) {}
  ~MemoryPort() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  // --- the wire
  void arrive(Octets frame) {
    const std::lock_guard lock(mutex_);
    arrived_.push_back(std::move(frame));
    const std::uint64_t one = 1;
    if (descriptor_ >= 0 && ::write(descriptor_, &one, sizeof one) < 0) std::abort();
  }
  std::deque<Octets> take_sent() {
    const std::lock_guard lock(mutex_);
    return std::exchange(sent_, {});
  }
  // How many frames the next calls of send() take; the rest stays with the caller.
  std::atomic<std::size_t> takes{SIZE_MAX};

  // While the flag is set, which several ports may share, nothing that has arrived is given out.
  std::atomic<const std::atomic<bool>*> held{nullptr};
  [[nodiscard]] std::size_t waiting() {
    const std::lock_guard lock(mutex_);
    return arrived_.size();
  }
  // Called by the worker with the number of packets it got; set while held.
  std::function<void(std::size_t)> on_receive;

  // --- Port
  void receive(std::uint16_t, PacketBurst& into) override {
    const std::lock_guard lock(mutex_);
    // Under the lock: what arrives after it was set is not given to who looked before.
    if (const std::atomic<bool>* flag = held.load(); flag != nullptr && *flag) return;
    const std::size_t before = into.size();
    while (!arrived_.empty() && !into.full()) {
      Packet* packet = pool_.allocate();
      if (packet == nullptr) break;
      packet->append(static_cast<std::uint16_t>(arrived_.front().size()));
      std::memcpy(packet->data, arrived_.front().data(), arrived_.front().size());
      arrived_.pop_front();
      into.add(packet);
    }
    if (on_receive && into.size() > before) on_receive(into.size() - before);
    std::uint64_t count = 0;
    if (descriptor_ >= 0 && arrived_.empty() && ::read(descriptor_, &count, sizeof count) < 0) return;
  }
  std::size_t send(std::uint16_t, std::span<Packet* const> frames) override {
    const std::size_t n = std::min<std::size_t>(frames.size(), takes.load());
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < n; ++i) sent_.emplace_back(frames[i]->data, frames[i]->data + frames[i]->length);
    pool_.release(frames.first(n));
    return n;
  }
  void reclaim_sent(std::uint16_t) override {}
  [[nodiscard]] int wait_descriptor(std::uint16_t worker) const override {
    return worker != 0 ? kNothing : descriptor_ >= 0 ? descriptor_ : kMustPoll;
  }
  [[nodiscard]] const MacAddress& mac() const override { return mac_; }
  [[nodiscard]] const std::string& driver() const override { return driver_; }
  [[nodiscard]] PortStats stats() const override { return {}; }

 private:
  MemoryPool& pool_;
  const MacAddress mac_;
  const int descriptor_;
  const std::string driver_ = "memory";
  std::mutex mutex_;
  std::deque<Octets> arrived_;
  std::deque<Octets> sent_;
};

class MemoryPlatform final : public Platform {
 public:
  void enter_thread() override { ++threads; }
  void leave_thread() override { --threads; }
  std::atomic<int> threads{0};
};

}  // namespace penstock::runtime::test
