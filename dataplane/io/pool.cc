#include "dataplane/io/pool.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mempool.h>

#include <algorithm>
#include <string>

#include "dataplane/io/mbuf.h"

namespace penstock::io {
namespace {

constexpr unsigned kMaxBuffers = 32767;
constexpr unsigned kMinBuffers = 4095;
constexpr unsigned kCacheSize = 256;
constexpr unsigned kOverhead = 160;
// Mempools whose threads may be preempted in the middle (workers share cores on small machines): other threads then
// need not wait for the one that lost its turn.
constexpr const char* kPoolKind = "ring_mt_rts";

}  // namespace

unsigned buffer_room(std::uint16_t mtu) {
  return std::max(2048U, RTE_ALIGN_CEIL(unsigned{mtu} + kOverhead, 1024U));
}

std::variant<std::unique_ptr<MbufPool>, std::string> MbufPool::make(std::uint16_t largest_mtu, std::uint32_t memory_mb,
                                                                    const std::vector<unsigned>& nodes) {
  const unsigned room = RTE_PKTMBUF_HEADROOM + buffer_room(largest_mtu) + kMinTailroom;
  const std::uint64_t element = sizeof(rte_mbuf) + kPrivateSize + room + 64;
  const std::uint64_t budget = (std::uint64_t{memory_mb} << 20) / 4 * 3 / std::max<std::size_t>(nodes.size(), 1);
  const auto count = static_cast<unsigned>(std::min<std::uint64_t>(kMaxBuffers, budget / element));
  if (count < kMinBuffers)
    return fmt::format("{} MiB hold only {} packet buffers of {} bytes{}; at least {} are needed", memory_mb, count, element,
                       nodes.size() > 1 ? fmt::format(" on each of {} NUMA nodes", nodes.size()) : "", kMinBuffers);
  std::unique_ptr<MbufPool> out(new MbufPool);
  for (std::size_t i = 0; i < std::max<std::size_t>(nodes.size(), 1); ++i) {
    const int socket = nodes.empty() ? SOCKET_ID_ANY : static_cast<int>(nodes[i]);
    const std::string name = socket == SOCKET_ID_ANY ? "penstock" : fmt::format("penstock{}", socket);
    rte_mempool* pool = rte_pktmbuf_pool_create_by_ops(name.c_str(), count, kCacheSize, kPrivateSize,
                                                       static_cast<std::uint16_t>(room), socket, kPoolKind);
    if (pool == nullptr && socket != SOCKET_ID_ANY)  // far memory is better than none (trap: io-13)
      pool = rte_pktmbuf_pool_create_by_ops(name.c_str(), count, kCacheSize, kPrivateSize,
                                            static_cast<std::uint16_t>(room), SOCKET_ID_ANY, kPoolKind);
    if (pool == nullptr)
      return fmt::format("no memory for {} packet buffers of {} bytes: {}", count, element, rte_strerror(rte_errno));
    out->parts_.push_back({pool, socket});
    rte_mempool_obj_iter(  // received_packet() sets a part of it only
        pool, [](rte_mempool*, void*, void* mbuf, unsigned) { new (static_cast<rte_mbuf*>(mbuf) + 1) Packet; }, nullptr);
  }
  return out;
}

MbufPool::~MbufPool() {
  for (const Part& part : parts_) rte_mempool_free(part.pool);
}

rte_mempool* MbufPool::mempool(std::optional<unsigned> node) const {
  for (const Part& part : parts_)
    if (node && part.node == static_cast<int>(*node)) return part.pool;
  return parts_.front().pool;
}

Packet* MbufPool::allocate() {
  rte_mbuf* mbuf = nullptr;
  if (parts_.size() == 1) {
    mbuf = rte_pktmbuf_alloc(parts_.front().pool);
  } else {
    const auto here = static_cast<int>(rte_socket_id());
    for (const bool near : {true, false})
      for (const Part& part : parts_)
        if (mbuf == nullptr && (part.node == here) == near) mbuf = rte_pktmbuf_alloc(part.pool);
  }
  return mbuf == nullptr ? nullptr : packet_of(mbuf);
}

void MbufPool::release(std::span<Packet* const> packets) {
  rte_mbuf* mbufs[kBurst];
  while (!packets.empty()) {
    const std::size_t n = std::min(packets.size(), kBurst);
    for (std::size_t i = 0; i < n; ++i) mbufs[i] = mbuf_of(packets[i]);
    rte_pktmbuf_free_bulk(mbufs, static_cast<unsigned>(n));
    packets = packets.subspan(n);
  }
}

runtime::PoolStats MbufPool::stats() const {
  runtime::PoolStats out;
  for (const Part& part : parts_) {
    out.free += rte_mempool_avail_count(part.pool);
    out.size += part.pool->size;
  }
  return out;
}

}  // namespace penstock::io
