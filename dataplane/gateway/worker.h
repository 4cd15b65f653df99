// What a stage is given: the worker's context. A stage is a free function
//
//     void stage(Worker& worker, PacketBurst& packets);
//
// that works on the whole burst, removes from it what goes elsewhere (an output list, a drop) and leaves in it, in
// order, what goes on to the next stage. One stage per file; the end of each file shows where its packets go.
//
// Theory of operation. Stages do no I/O: they fill `out`, and the runtime drains it once per loop (transmit, rings,
// free). So the whole packet path runs in a unit test or a simulation without DPDK. A Worker belongs to one thread;
// what other threads share with it stands behind pointers that are read under the worker's RCU read side (one quiescent
// state per loop) and may not be kept beyond it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "dataplane/core/base/time.h"
#include "dataplane/core/nat/translator.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/packet_source.h"
#include "dataplane/gateway/token_bucket.h"

namespace penstock::wireguard {
class AeadContext;
class DataPath;
}  // namespace penstock::wireguard
namespace penstock::gateway {

struct Configuration;
class NeighbourTable;
class PolicyTable;
class ResendStore;

inline constexpr std::size_t kMaxPorts = 16;
inline constexpr std::size_t kMaxWorkers = 64;

// A list that stages append to and the runtime drains after every process_* call. Four bursts deep, so that a stage
// which makes packets (ICMP errors, fragments) need not check at every step; when it is full the packet is dropped with
// the reason that the caller names.
template <std::size_t Capacity>
class BasicPacketList {
 public:
  static constexpr std::size_t kCapacity = Capacity;
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] bool full() const { return size_ == kCapacity; }
  // False when full.
  bool add(Packet* packet) {
    if (full()) return false;
    packets_[size_++] = packet;
    return true;
  }
  void clear() { size_ = 0; }
  Packet** begin() { return packets_.data(); }
  Packet** end() { return packets_.data() + size_; }
  Packet* operator[](std::size_t i) const { return packets_[i]; }

 private:
  std::size_t size_ = 0;
  std::array<Packet*, kCapacity> packets_;
};
using PacketList = BasicPacketList<4 * kBurst>;

// Buffers for packets that stages make themselves. Same thread as the worker.
using PacketSource = penstock::PacketSource;

// The stages, in the order a packet meets them.
enum class Stage : std::uint8_t {
  classify,
  tunnel_input,
  decap,
  translate_up,
  translate_down,
  local,
  neighbour_input,
  route,
  encap,
  output,
  exception,
  io  // not a stage: what the loop around them does
};
inline constexpr std::array<std::string_view, 12> kStageNames = {
    "classify",        "tunnel_input", "decap", "translate_up", "translate_down", "local",
    "neighbour_input", "route",        "encap", "output",       "exception",      "io"};
inline constexpr std::size_t kStageCount = kStageNames.size();

struct Outputs {
  std::array<PacketList, kMaxPorts> tx;          // complete frames, per port
  std::array<PacketList, kMaxWorkers> handover;  // for the worker that owns the flow; data at the inner/LAN IP header
  // For the slow thread; a list and ring of its own, so that a flood of initiations fills only it.
  PacketList handshake;
  PacketList slow;       // for the slow thread: everything else of messages.h (ToSlow)
  PacketList exception;  // whole frames for the host's kernel
  // Counted already; to be freed. As long as the most that one call can drop: a translator's outcomes, its burst, and
  // the bursts before that are under way in a Pipeline.
  BasicPacketList<75 * kBurst> dropped;
};

// Single-writer counters, summed on read by the main thread. Plain increments; the reader tolerates a torn moment
// (relaxed 64-bit loads), never a torn value.
struct WorkerCounters {
  std::array<std::uint64_t, kDropReasonCount> drops{};
  std::uint64_t decrypted_packets = 0, decrypted_bytes = 0;
  std::uint64_t encrypted_packets = 0, encrypted_bytes = 0;
  std::uint64_t translated_up = 0, translated_down = 0;
  std::uint64_t kept_packets = 0;  // copied, to be sent again if need be
  std::uint64_t resent_packets = 0, resent_bytes = 0;
  std::uint64_t flows_created = 0, flows_ended = 0;
  std::uint64_t flows_moved = 0;  // to another address of their name
  std::uint64_t icmp_errors_sent = 0;
  std::uint64_t loops = 0, busy_loops = 0;
  std::array<std::uint64_t, kStageCount> stage_packets{};  // that entered the stage
};

// Where the time goes, for measurements: the time between two entries of stages counts for the first of them. `clock`
// reads a cycle counter; off (nullptr) in the product.
struct StageClock {
  std::uint64_t (*clock)() = nullptr;
  std::uint64_t since = 0;
  Stage stage = Stage::io;
  std::array<std::uint64_t, kStageCount> cycles{};

  void enter(Stage next) {
    const std::uint64_t now = clock();
    cycles[static_cast<std::size_t>(stage)] += now - since;
    since = now;
    stage = next;
  }
};

struct Worker {
  std::uint16_t id = 0;
  std::uint16_t workers = 1;
  Now now{};  // taken once per loop

  const Configuration* configuration = nullptr;
  wireguard::DataPath* tunnels = nullptr;      // shared tables of the WireGuard device
  wireguard::AeadContext* aead = nullptr;      // own
  nat::Translator* translator = nullptr;       // own flow table and ports
  const PolicyTable* policies = nullptr;       // shared
  const NeighbourTable* neighbours = nullptr;  // shared
  PacketSource* packets = nullptr;             // own
  ResendStore* resend = nullptr;               // own; nullptr: nothing is kept

  WorkerCounters counters;
  StageClock stage_clock;
  Outputs out;

  nat::Outcomes outcomes;           // of the translator, until the graph has dealt with them
  std::uint32_t removals_seen = 0;  // of PolicyTable; see end_of_loop
  bool orphans_left = false;
  TokenBucket error_limit{100, 50};  // ICMP errors about the next hop

  // The one way for a packet not to go on.
  void drop(Packet* packet, DropReason reason) {
    packet->drop_reason = reason;
    ++counters.drops[static_cast<std::size_t>(reason)];
    out.dropped.add(packet);  // sized so that one call of the graph cannot overfill it (graph.h)
  }

  void enter(Stage stage, std::size_t packets_in) {
    counters.stage_packets[static_cast<std::size_t>(stage)] += packets_in;
    if (stage_clock.clock != nullptr) [[unlikely]]
      stage_clock.enter(stage);
  }
};

}  // namespace penstock::gateway
