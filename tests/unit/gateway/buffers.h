// Packets on the heap, counted, and seeded randomness: what every test of the packet path needs.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <vector>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/packet_source.h"

namespace penstock::gateway::test {

class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed = 1) : engine_(seed) {}
  void fill(std::span<std::uint8_t> out) override {
    for (std::uint8_t& byte : out) byte = static_cast<std::uint8_t>(engine_());
  }

 private:
  std::mt19937_64 engine_;
};

// Every buffer is its own allocation, so that a sanitizer sees what leaves it. Ends the test when a packet is freed
// twice.
class HeapPackets final : public PacketSource {
 public:
  static constexpr std::uint16_t kRoom = 9216;

  ~HeapPackets() override {
    for (Packet* packet : live_) destroy(packet);
  }

  Packet* allocate() override {
    if (fail_after == 0) return nullptr;
    if (fail_after > 0) --fail_after;
    constexpr std::size_t kSize = sizeof(Packet) + kMinHeadroom + kRoom + kMinTailroom;
    void* memory = std::aligned_alloc(alignof(Packet), (kSize + 63) / 64 * 64);
    auto* packet = new (memory) Packet;
    packet->data = reinterpret_cast<std::uint8_t*>(packet + 1) + kMinHeadroom;
    packet->headroom = kMinHeadroom;
    packet->tailroom = kRoom + kMinTailroom;
    live_.insert(packet);
    return packet;
  }

  Packet* with(Bytes bytes, PortIndex port = kNoPort) {
    Packet* packet = allocate();
    packet->append(static_cast<std::uint16_t>(bytes.size()));
    if (!bytes.empty()) std::memcpy(packet->data, bytes.data(), bytes.size());
    packet->port = port;
    return packet;
  }

  void release(Packet* packet) {
    if (live_.erase(packet) == 0) std::abort();
    destroy(packet);
  }

  [[nodiscard]] std::size_t live() const { return live_.size(); }

  int fail_after = -1;  // so many allocations succeed; -1: all

 private:
  static void destroy(Packet* packet) {
    packet->~Packet();
    std::free(packet);
  }
  std::set<Packet*> live_;
};

inline std::vector<std::uint8_t> copy(Bytes bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace penstock::gateway::test
