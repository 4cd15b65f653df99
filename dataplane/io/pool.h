// The process's buffers: one DPDK mempool whose mbufs carry a Packet in their private area.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "dataplane/runtime/packet_io.h"

struct rte_mempool;

namespace penstock::io {

// Bytes for a frame of this MTU, in whole KiB as NICs and af_packet cut their receive buffers: link headers, and what
// the kernel puts before a frame in a ring it shares.
[[nodiscard]] unsigned buffer_room(std::uint16_t mtu);

class MbufPool final : public runtime::PacketPool {
 public:
  // `largest_mtu`: of all ports; a frame of that size fits one buffer with headroom and tailroom. `memory_mb`: what the
  // process may use; the pool takes up to three quarters. The error says what failed.
  static std::variant<std::unique_ptr<MbufPool>, std::string> make(std::uint16_t largest_mtu, std::uint32_t memory_mb);
  ~MbufPool() override;

  Packet* allocate() override;
  void release(std::span<Packet* const> packets) override;
  [[nodiscard]] runtime::PoolStats stats() const override;

  [[nodiscard]] rte_mempool* mempool() const { return pool_; }

 private:
  explicit MbufPool(rte_mempool* pool) : pool_(pool) {}
  rte_mempool* pool_;
};

}  // namespace penstock::io
