// What the flood experiment's thread and the ports share, and the ports, which the worker's thread turns.
#pragma once

#include <algorithm>
#include <chrono>

#include "dataplane/core/wireguard/messages.h"
#include "perf/handshake/frames.h"

namespace penstock::perf {

using Clock = std::chrono::steady_clock;

inline constexpr double kFloodRate = 2e6;
inline constexpr std::size_t kLegitimate = 2000;

// One initiation of a peer that has every right to it.
struct Legitimate {
  wireguard::InitiationMessage message;
  Endpoint source;
  Clock::time_point sent{};
  std::atomic<bool> answered{false};
  Clock::time_point answered_at{};
};

struct Bench {
  // Shared with the ports, which the worker's thread turns.
  std::atomic<bool> flooding{false};
  std::atomic<bool> data{false};
  std::atomic<std::uint64_t> data_packets{0};
  std::atomic<std::uint64_t> forged_packets{0};
  std::vector<Frame> forged;
  std::vector<Frame> lan_frames;
  std::vector<Legitimate> legitimate{kLegitimate};
  std::mutex mutex;
  std::deque<Frame> to_wan, to_lan;            // arriving
  std::deque<Frame> from_wan, from_lan;        // sent, of interest
  std::atomic<bool> waiting_wan{false}, waiting_lan{false};
};

class WanPort final : public BenchPort {
 public:
  WanPort(Bench& bench, BenchPool& pool) : BenchPort(pool, {2, 0, 0, 0, 0, 1}), bench_(bench) {}

  void receive(std::uint16_t, PacketBurst& into) override {
    take_waiting(bench_.mutex, bench_.to_wan, bench_.waiting_wan, into);
    if (!bench_.flooding.load(std::memory_order_relaxed)) {
      last_ = {};
      return;
    }
    const auto now = Clock::now();
    if (last_ != Clock::time_point{})
      due_ = std::min(due_ + std::chrono::duration<double>(now - last_).count() * kFloodRate, 8192.0);
    last_ = now;
    std::uint64_t n = 0;
    for (; due_ >= 1 && !into.full(); due_ -= 1, ++n)
      if (!put(bench_.forged[next_++ % bench_.forged.size()], into)) break;
    bench_.forged_packets.fetch_add(n, std::memory_order_relaxed);
  }

  std::size_t send(std::uint16_t, std::span<Packet* const> frames) override {
    std::uint64_t data = 0;
    for (Packet* packet : frames) {
      const std::uint8_t type = packet->length > 46 ? packet->data[42] : 0;
      if (packet->data[12] == 8 && packet->data[13] == 0 && type == 4) {
        ++data;
        if (!bench_.data.load(std::memory_order_relaxed)) keep(*packet);
      } else if (type != 3) {
        keep(*packet);
      }
    }
    bench_.data_packets.fetch_add(data, std::memory_order_relaxed);
    return give_back(frames);
  }

 private:
  void keep(const Packet& packet) {
    const std::lock_guard lock(bench_.mutex);
    bench_.from_wan.emplace_back(packet.data, packet.data + packet.length);
  }

  Bench& bench_;
  Clock::time_point last_{};
  double due_ = 0;
  std::size_t next_ = 0;
};

class LanPort final : public BenchPort {
 public:
  LanPort(Bench& bench, BenchPool& pool) : BenchPort(pool, {2, 0, 0, 0, 0, 2}), bench_(bench) {}

  void receive(std::uint16_t, PacketBurst& into) override {
    take_waiting(bench_.mutex, bench_.to_lan, bench_.waiting_lan, into);
    if (!bench_.data.load(std::memory_order_acquire)) return;
    for (int i = 0; i < 32 && !into.full(); ++i)
      if (!put(bench_.lan_frames[next_++ % bench_.lan_frames.size()], into)) break;
  }

  std::size_t send(std::uint16_t, std::span<Packet* const> frames) override {
    const std::lock_guard lock(bench_.mutex);
    for (Packet* packet : frames) bench_.from_lan.emplace_back(packet->data, packet->data + packet->length);
    return give_back(frames);
  }

 private:
  Bench& bench_;
  std::size_t next_ = 0;
};

}  // namespace penstock::perf
