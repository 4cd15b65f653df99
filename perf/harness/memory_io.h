// Packet I/O in memory: buffers, and ports that give out what was laid ready and keep what is sent.
//
// Behind the same interfaces as DPDK, so that the worker loop is the product's. What a driver does to a received buffer
// (a fresh Packet in it) is done here too; what it does to a sent one is not.
// One thread per pool and per queue of a port.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dataplane/runtime/packet_io.h"

namespace penstock::perf {

class MemoryPool final : public runtime::PacketPool {
 public:
  // `room`: bytes of a frame.
  MemoryPool(std::size_t count, std::uint16_t room);
  ~MemoryPool() override;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  Packet* allocate() override;
  void release(std::span<Packet* const> packets) override;
  [[nodiscard]] runtime::PoolStats stats() const override { return {free_.size(), count_}; }
  // Bytes that one buffer takes.
  [[nodiscard]] std::size_t stride() const { return stride_; }

 private:
  std::size_t count_;
  std::uint16_t room_;
  std::size_t stride_;
  std::size_t mapped_;
  std::uint8_t* memory_;
  std::vector<Packet*> free_;
};

class MemoryPort final : public runtime::Port {
 public:
  MemoryPort(std::string name, const MacAddress& mac, std::uint16_t workers);

  // What receive() gives to `worker` next, in order; the span must live until it has.
  void lay_ready(std::uint16_t worker, std::span<Packet* const> frames);
  // What `worker` has sent since the last forget(); the buffers are the caller's.
  [[nodiscard]] std::span<Packet* const> sent(std::uint16_t worker) const { return queues_[worker].sent; }
  [[nodiscard]] std::size_t left(std::uint16_t worker) const { return queues_[worker].ready.size(); }
  void forget(std::uint16_t worker) { queues_[worker].sent.clear(); }

  void receive(std::uint16_t worker, PacketBurst& into) override;
  std::size_t send(std::uint16_t worker, std::span<Packet* const> frames) override;
  void reclaim_sent(std::uint16_t) override {}
  [[nodiscard]] int wait_descriptor(std::uint16_t) const override { return kMustPoll; }
  [[nodiscard]] const MacAddress& mac() const override { return mac_; }
  [[nodiscard]] const std::string& driver() const override { return name_; }
  [[nodiscard]] runtime::PortStats stats() const override { return {}; }

 private:
  struct alignas(64) Queue {
    std::span<Packet* const> ready;
    std::vector<Packet*> sent;
  };
  std::string name_;
  MacAddress mac_;
  std::vector<Queue> queues_;
};

}  // namespace penstock::perf
