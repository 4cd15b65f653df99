// What the flood experiment's thread and the ports share, and the ports, which the worker's thread turns.
#pragma once

#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <random>

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
  std::atomic<double> flood_rate{0};  // forged messages per second
  std::atomic<bool> data{false};
  std::atomic<std::uint64_t> data_packets{0};
  std::atomic<std::uint64_t> card_cycles{0};  // of the worker's thread in what a card and its driver do elsewhere
  std::atomic<std::uint64_t> forged_packets{0};            // taken by the worker ...
  std::atomic<std::uint64_t> lost_forged{0}, lost{0};      // ... lost before it; others lost with them
  std::vector<Frame> forged;
  std::vector<Frame> lan_frames;
  std::vector<Legitimate> legitimate{kLegitimate};
  std::mutex mutex;
  std::deque<Frame> to_wan, to_lan;            // arriving
  std::deque<Frame> from_wan, from_lan;        // sent, of interest
  std::atomic<bool> waiting_wan{false}, waiting_lan{false};
};

// Time that the worker's thread spends on making what arrives, which is not the worker's.
class CardTime {
 public:
  explicit CardTime(Bench& bench) : bench_(bench), begun_(__rdtsc()) {}
  ~CardTime() { bench_.card_cycles.fetch_add(__rdtsc() - begun_, std::memory_order_relaxed); }
  CardTime(const CardTime&) = delete;
  CardTime& operator=(const CardTime&) = delete;

 private:
  Bench& bench_;
  const std::uint64_t begun_;
};

// Towards the world: a card's queue, into which forged messages come at their rate and everything else among them. What
// arrives while it is full is lost, whoever sent it.
class WanPort final : public BenchPort {
 public:
  WanPort(Bench& bench, BenchPool& pool) : BenchPort(pool, {2, 0, 0, 0, 0, 1}), bench_(bench) {}

  void receive(std::uint16_t, PacketBurst& into) override {
    const double rate = bench_.flood_rate.load(std::memory_order_relaxed);
    if (rate == 0 && waiting_ == 0) {
      last_ = {};
      take_waiting(bench_.mutex, bench_.to_wan, bench_.waiting_wan, into);
      return;
    }
    const CardTime timed(bench_);
    arrive(rate);
    std::uint64_t n = 0;
    for (; waiting_ > 0 && !into.full(); --waiting_, ++n) {
      while (!others_.empty() && others_.front().behind <= served_ && !into.full()) {
        put(others_.front().frame, into);
        others_.pop_front();
      }
      if (into.full() || !put_forged(into)) break;
      ++served_;
    }
    if (waiting_ == 0)
      for (; !others_.empty() && !into.full(); others_.pop_front()) put(others_.front().frame, into);
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
  // A buffer that holds a forged message since it was last here, under a new source: two halves of the address whose
  // sum, and with it the checksum, stays the same.
  bool put_forged(PacketBurst& into) {
    Packet* packet = pool_.take_forged();
    if (packet == nullptr) return false;
    constexpr std::size_t kType = 42;  // behind Ethernet, IPv4 and UDP
    if (packet->data[12] != 8 || packet->data[kType] != 1) {  // never filled, or used for a cookie
      const Frame& frame = bench_.forged[next_ % bench_.forged.size()];
      std::memcpy(packet->data, frame.data(), frame.size());
    }
    std::uint8_t* const source = packet->data + 26;
    std::uint32_t sum = std::uint32_t{load_half(source)} + load_half(source + 2);
    sum = (sum & 0xffff) + (sum >> 16);
    const auto first = static_cast<std::uint32_t>(0x0b00 + next_++ * 7919 % 0x5000);
    store_half(source, static_cast<std::uint16_t>(first));
    store_half(source + 2, static_cast<std::uint16_t>(sum >= first ? sum - first : sum + 0xffff - first));
    packet->append(kForgedLength);
    into.add(packet);
    return true;
  }
  static std::uint16_t load_half(const std::uint8_t* at) { return static_cast<std::uint16_t>(at[0] << 8 | at[1]); }
  static void store_half(std::uint8_t* at, std::uint16_t value) {
    at[0] = static_cast<std::uint8_t>(value >> 8);
    at[1] = static_cast<std::uint8_t>(value);
  }
  void keep(const Packet& packet) {
    const std::lock_guard lock(bench_.mutex);
    bench_.from_wan.emplace_back(packet.data, packet.data + packet.length);
  }

  static constexpr std::uint64_t kQueue = 4096;
  static constexpr std::uint16_t kForgedLength = 14 + 20 + 8 + sizeof(wireguard::InitiationMessage);

  // What has come since the last look: so many forged messages, and the others anywhere among them.
  void arrive(double rate) {
    const auto now = Clock::now();
    if (last_ != Clock::time_point{}) due_ += std::chrono::duration<double>(now - last_).count() * rate;
    last_ = now;
    const auto came = static_cast<std::uint64_t>(due_);
    due_ -= static_cast<double>(came);
    const std::uint64_t taken = std::min(came, kQueue - waiting_);
    if (bench_.waiting_wan.load(std::memory_order_acquire)) {
      const std::lock_guard lock(bench_.mutex);
      for (Frame& frame : bench_.to_wan) {
        const std::uint64_t place = came == 0 ? 0 : random_() % came;
        if (came != 0 && place >= taken) {
          bench_.lost.fetch_add(1, std::memory_order_relaxed);
          continue;
        }
        others_.push_back({served_ + waiting_ + place, std::move(frame)});
      }
      bench_.to_wan.clear();
      bench_.waiting_wan = false;
      std::sort(others_.begin(), others_.end(), [](const auto& a, const auto& b) { return a.behind < b.behind; });
    }
    waiting_ += taken;
    bench_.lost_forged.fetch_add(came - taken, std::memory_order_relaxed);
  }

  struct Other {
    std::uint64_t behind;  // so many forged ones since the start
    Frame frame;
  };
  Bench& bench_;
  Clock::time_point last_{};
  double due_ = 0;
  std::uint64_t waiting_ = 0, served_ = 0;
  std::deque<Other> others_;
  std::minstd_rand random_;
  std::size_t next_ = 0;
};

class LanPort final : public BenchPort {
 public:
  LanPort(Bench& bench, BenchPool& pool) : BenchPort(pool, {2, 0, 0, 0, 0, 2}), bench_(bench) {}

  void receive(std::uint16_t, PacketBurst& into) override {
    take_waiting(bench_.mutex, bench_.to_lan, bench_.waiting_lan, into);
    if (!bench_.data.load(std::memory_order_acquire)) return;
    const CardTime timed(bench_);
    while (!into.full())
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
