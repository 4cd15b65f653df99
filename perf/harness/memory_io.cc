#include "perf/harness/memory_io.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/renew.h"

namespace penstock::perf {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// As DPDK's pools have them: huge pages.
std::uint8_t* map(std::size_t size) {
  void* memory = ::mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("no memory for packet buffers");
    std::exit(1);
  }
  ::madvise(memory, size + kHugePage, MADV_HUGEPAGE);
  return static_cast<std::uint8_t*>(memory);
}

Packet* fresh(Packet* at, std::uint8_t* data, std::uint16_t length, std::uint16_t headroom, std::uint16_t tailroom) {
  auto* packet = new (at) Packet;
  packet->data = data;
  packet->length = length;
  packet->headroom = headroom;
  packet->tailroom = tailroom;
  return packet;
}

}  // namespace

MemoryPool::MemoryPool(std::size_t count, std::uint16_t room)
    : count_(count),
      room_(static_cast<std::uint16_t>(room + kMinTailroom)),
      // An odd number of lines, so that headers do not all fall into the same sets of a cache.
      stride_(((sizeof(Packet) + kMinHeadroom + room_ + 63) / 64 | 1) * 64),
      mapped_(stride_ * count),
      memory_(map(mapped_)) {
  auto* start = reinterpret_cast<std::uint8_t*>((reinterpret_cast<std::uintptr_t>(memory_) + kHugePage - 1) /
                                                kHugePage * kHugePage);
  free_.reserve(count);
  for (std::size_t i = count; i-- > 0;) free_.push_back(reinterpret_cast<Packet*>(start + i * stride_));
}

MemoryPool::~MemoryPool() {
  ::munmap(memory_, mapped_ + kHugePage);
}

Packet* MemoryPool::allocate() {
  if (free_.empty()) return nullptr;
  Packet* packet = free_.back();
  free_.pop_back();
  return fresh(packet, reinterpret_cast<std::uint8_t*>(packet + 1) + kMinHeadroom, 0, kMinHeadroom, room_);
}

void MemoryPool::release(std::span<Packet* const> packets) {
  free_.insert(free_.end(), packets.begin(), packets.end());
}

MemoryPort::MemoryPort(std::string name, const MacAddress& mac, std::uint16_t workers)
    : name_(std::move(name)), mac_(mac), queues_(workers) {}

void MemoryPort::lay_ready(std::uint16_t worker, std::span<Packet* const> frames) {
  queues_[worker].ready = frames;
  queues_[worker].sent.reserve(frames.size() * 2 + kBurst);
}

void MemoryPort::receive(std::uint16_t worker, PacketBurst& into) {
  auto& ready = queues_[worker].ready;
  const std::size_t n = std::min(ready.size(), kBurst - into.size());
  constexpr std::size_t kAhead = 8;
  for (std::size_t i = 0; i < n && i < kAhead; ++i) prefetch_write(ready[i]);
  for (std::size_t i = 0; i < n; ++i) {
    if (i + kAhead < n) prefetch_write(ready[i + kAhead]);
    Packet* packet = ready[i];
    renew(*packet, packet->data, packet->length, packet->headroom, packet->tailroom);
    prefetch_frame(packet->data);
    into.add(packet);
  }
  ready = ready.subspan(n);
}

std::size_t MemoryPort::send(std::uint16_t worker, std::span<Packet* const> frames) {
  auto& sent = queues_[worker].sent;
  sent.insert(sent.end(), frames.begin(), frames.end());
  return frames.size();
}

}  // namespace penstock::perf
