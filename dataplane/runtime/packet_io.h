// What the runtime needs of packet I/O. Implemented over DPDK by dataplane/io and over memory by tests.
//
// Calls are per burst, never per packet. Buffers: every Packet comes from the pool and goes back to it, through
// release() or by being sent; any thread that called Platform::enter_thread may allocate and release.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "dataplane/core/nat/reply_steering.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/worker.h"

namespace penstock::runtime {

struct PoolStats {
  std::uint64_t free = 0;  // buffers in the pool and in per-thread caches
  std::uint64_t size = 0;
};

class PacketPool : public gateway::PacketSource {
 public:
  // Takes back packets, whoever allocated or received them.
  virtual void release(std::span<Packet* const> packets) = 0;
  // Any thread; exact only while no packet is under way.
  [[nodiscard]] virtual PoolStats stats() const = 0;
};

struct PortStats {
  std::uint64_t rx_packets = 0, tx_packets = 0;
  std::uint64_t rx_bytes = 0, tx_bytes = 0;
  std::uint64_t rx_missed = 0;  // lost before we saw them: ring or pool empty
  std::uint64_t tx_errors = 0;
  bool link_up = false;
};

class Port {
 public:
  virtual ~Port() = default;

  // Appends what has arrived for `worker` to `into` (up to its room). Packets start at the Ethernet header; every
  // other field is as in a fresh Packet. A worker without a queue on this port gets nothing.
  virtual void receive(std::uint16_t worker, PacketBurst& into) = 0;

  // Takes complete frames from the front of `frames` and returns how many; the caller still owns the rest.
  virtual std::size_t send(std::uint16_t worker, std::span<Packet* const> frames) = 0;

  // Gives back to the pool the buffers of frames that have left meanwhile. Called when the worker has nothing to do.
  virtual void reclaim_sent(std::uint16_t worker) = 0;

  // A descriptor that poll() reports readable when frames for `worker` have arrived; -1: there is none, look by
  // receive() instead; -2: this worker receives nothing from this port.
  static constexpr int kMustPoll = -1;
  static constexpr int kNothing = -2;
  [[nodiscard]] virtual int wait_descriptor(std::uint16_t worker) const = 0;

  // Whether the device fills UDP checksums over IPv6 in where a packet of our own is marked so (packet_flag::l4_checksum_ok).
  [[nodiscard]] virtual bool fills_checksums() const { return false; }

  // How the device spreads what it receives over its queues; nullopt: it has one, or does not say.
  [[nodiscard]] virtual std::optional<nat::RssLayout> rss_layout() const { return std::nullopt; }

  [[nodiscard]] virtual const MacAddress& mac() const = 0;
  [[nodiscard]] virtual const std::string& driver() const = 0;
  // Any thread.
  [[nodiscard]] virtual PortStats stats() const = 0;
};

// The host's kernel behind the exception path (a TAP device). One thread: the slow thread.
class KernelPort {
 public:
  virtual ~KernelPort() = default;
  // A frame from the kernel, allocated from `pool`; nullptr when there is none.
  virtual Packet* receive(PacketPool& pool) = 0;
  // Copies the frame; false when the kernel does not take it now.
  virtual bool send(const Packet& frame) = 0;
  [[nodiscard]] virtual int wait_descriptor() const = 0;
};

// Brackets around the life of every thread that touches packets.
class Platform {
 public:
  virtual ~Platform() = default;
  virtual void enter_thread() = 0;
  virtual void leave_thread() = 0;
};

}  // namespace penstock::runtime
