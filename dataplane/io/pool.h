// The process's buffers: a DPDK mempool for every NUMA node that workers run on, whose mbufs carry a Packet in their private
// area. A thread allocates from its own node's pool, and from another's while that is empty.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/runtime/packet_io.h"

struct rte_mempool;

namespace penstock::io {

// Bytes for a frame of this MTU, in whole KiB as NICs and af_packet cut their receive buffers: link headers, and what
// the kernel puts before a frame in a ring it shares.
[[nodiscard]] unsigned buffer_room(std::uint16_t mtu);

class MbufPool final : public runtime::PacketPool {
 public:
  // `largest_mtu`: of all ports; a frame of that size fits one buffer with headroom and tailroom. `memory_mb`: what the
  // process may use; the pools take up to three quarters. `nodes`: a pool for each, there if it has the
  // memory; none: one, wherever there is memory. `anywhere`: DPDK has no hugepages and need not have allocated the
  // buffers (Eal::buffers_anywhere); they are in transparent huge pages then, where the system grants them: a start takes a
  // third of a second less, as every page of them is touched. The error says what failed.
  static std::variant<std::unique_ptr<MbufPool>, std::string> make(std::uint16_t largest_mtu, std::uint32_t memory_mb,
                                                                   const std::vector<unsigned>& nodes = {},
                                                                   bool anywhere = false);
  ~MbufPool() override;

  Packet* allocate() override;
  void release(std::span<Packet* const> packets) override;
  [[nodiscard]] runtime::PoolStats stats() const override;

  // Of a node; another when that has none.
  [[nodiscard]] rte_mempool* mempool(std::optional<unsigned> node = std::nullopt) const;

 private:
  struct Part {
    rte_mempool* pool;
    int node;  // SOCKET_ID_ANY: no particular one
  };
  MbufPool() = default;
  std::vector<Part> parts_;  // at least one
};

}  // namespace penstock::io
