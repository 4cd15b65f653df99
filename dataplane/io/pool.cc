#include "dataplane/io/pool.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mempool.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "dataplane/core/base/huge_pages.h"
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

void unmap(rte_mempool_memhdr* chunk, void* size) {
  ::munmap(chunk->addr, reinterpret_cast<std::size_t>(size));
}

// What rte_pktmbuf_pool_create_by_ops() does, with buffers in memory of our own: one piece, as AF_XDP wants it. nullptr and
// rte_errno when there is no memory.
rte_mempool* pool_in_own_memory(const char* name, unsigned count, unsigned room) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  constexpr std::size_t kPage = 4096;
  constexpr unsigned kPageShift = 12;
  rte_mempool* pool = rte_mempool_create_empty(name, count, sizeof(rte_mbuf) + kPrivateSize + room, kCacheSize,
                                               sizeof(rte_pktmbuf_pool_private), SOCKET_ID_ANY, 0);
  if (pool == nullptr) return nullptr;
  const auto fail = [pool](int error) -> rte_mempool* {
    rte_mempool_free(pool);
    rte_errno = error;
    return nullptr;
  };
  if (const int result = rte_mempool_set_ops_byname(pool, kPoolKind, nullptr); result != 0) return fail(-result);
  rte_pktmbuf_pool_private settings{};
  settings.mbuf_data_room_size = static_cast<std::uint16_t>(room);
  settings.mbuf_priv_size = kPrivateSize;
  rte_pktmbuf_pool_init(pool, &settings);

  std::size_t chunk = 0, align = 0;
  const ssize_t needed = rte_mempool_op_calc_mem_size_default(pool, count, kPageShift, &chunk, &align);
  if (needed < 0) return fail(static_cast<int>(-needed));
  // The system aligns a mapping of whole huge pages by itself; where it does not, its ends are on small ones.
  const std::size_t size = RTE_ALIGN_CEIL(static_cast<std::size_t>(needed) + kPage, kHugePage);
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail(errno);
  ask_for_huge_pages(memory, size);
  const int result = rte_mempool_populate_virt(pool, static_cast<char*>(memory), size, kPage, unmap,
                                               reinterpret_cast<void*>(size));
  if (result <= 0) ::munmap(memory, size);
  if (result < static_cast<int>(count)) return fail(result < 0 ? -result : ENOMEM);
  rte_mempool_obj_iter(pool, rte_pktmbuf_init, nullptr);
  return pool;
}

}  // namespace

unsigned buffer_room(std::uint16_t mtu) {
  return std::max(2048U, RTE_ALIGN_CEIL(unsigned{mtu} + kOverhead, 1024U));
}

std::variant<std::unique_ptr<MbufPool>, std::string> MbufPool::make(std::uint16_t largest_mtu, std::uint32_t memory_mb,
                                                                    const std::vector<unsigned>& nodes, bool anywhere) {
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
    const auto create = [&](int on) {
      return anywhere  // without hugepages DPDK knows no nodes either
                 ? pool_in_own_memory(name.c_str(), count, room)
                 : rte_pktmbuf_pool_create_by_ops(name.c_str(), count, kCacheSize, kPrivateSize,
                                                  static_cast<std::uint16_t>(room), on, kPoolKind);
    };
    rte_mempool* pool = create(socket);
    if (pool == nullptr && socket != SOCKET_ID_ANY)  // far memory is better than none (trap: io-13)
      pool = create(SOCKET_ID_ANY);
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
