// One short measurement: packets laid ready, the worker loops turned until all have gone through, what came out
// checked.
//
// Up: sealed WireGuard messages on the WAN port, each used once, so that the replay window and everything else is real.
// Down: packets from servers on the LAN port. Packets of a window follow each other in random order of flows, or in
// trains of one flow. A window holds so many packets that they lie in the last-level cache when they are taken, as they
// do when a NIC has just written them.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "perf/harness/bench_gateway.h"

namespace penstock::perf {

struct Traffic {
  bool up = true;
  std::vector<std::uint16_t> sizes;  // inner; a packet's is drawn from these
  unsigned train = 1;                // packets of one flow in a row
  std::size_t packets = 16384;       // per worker and window
};

// IMIX is 7:4:1 of 64, 576 and 1420.
[[nodiscard]] std::vector<std::uint16_t> imix();
// Packets of one window so that they fill `bytes` of buffers.
[[nodiscard]] std::size_t packets_in(const MemoryPool& pool, std::size_t bytes);

struct Outcome {
  std::uint64_t packets = 0;
  std::uint64_t bytes = 0;        // inner
  std::uint64_t cycles = 0;       // until the last worker had finished
  std::uint64_t aead_cycles = 0;  // of those, in the AEAD; summed over workers
  std::uint64_t raw_cycles = 0;   // the AEAD alone over the same lengths and keys, one worker's packets
  std::uint64_t raw_packets = 0;
  std::array<std::uint64_t, gateway::kStageCount> stage_cycles{};  // with the AEAD's in decap and encap
};

class Window {
 public:
  Window(BenchGateway& gateway, const Traffic& traffic, std::uint64_t seed);

  // Lays packets ready for every worker.
  void prepare();
  // With one worker in this thread, with more in a thread each (which the gateway's workers are pinned to, core by
  // core). `stages`: times them one by one, which costs a little.
  Outcome run(bool stages);
  // Empty: every packet came out, nothing was dropped, and `samples` of them were looked at and found right.
  [[nodiscard]] std::string verify(unsigned samples);
  // The AEAD alone, in bursts of 64, over the buffers of this window. Destroys them.
  void measure_raw(Outcome& outcome);
  void clean_up();

  [[nodiscard]] const std::vector<Sent>& sent() const { return sent_; }

 private:
  void lay_worker(std::uint16_t worker);
  [[nodiscard]] bool finished(std::uint16_t worker) const;

  BenchGateway& gateway_;
  Traffic traffic_;
  std::mt19937_64 random_;
  std::vector<std::vector<std::uint32_t>> flows_of_;  // per worker
  std::vector<std::vector<Packet*>> frames_;
  std::vector<Sent> sent_;  // by number
  std::uint64_t bytes_ = 0;
  std::uint64_t drops_before_ = 0;
};

}  // namespace penstock::perf
