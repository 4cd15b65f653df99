// Load in one direction: sessions and flows made first, then trials at a given rate.
//
// Theory of operation. One thread sends bursts when they are due and looks at what has come back in between. A received
// packet is counted; every 17th is opened (down), its checksums and payload verified, and its time taken. A generator
// that was late (preempted) does not catch up in one flood, which would be another test: what it missed is not sent and
// shows in `sent`.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "perf/generator/clients.h"
#include "perf/generator/histogram.h"
#include "perf/generator/rig.h"
#include "perf/generator/traffic.h"

namespace penstock::generator {

struct Trial {
  double seconds = 0;  // of sending
  double wanted = 0;   // packets per second; negative: no limit
  std::uint64_t sent = 0;
  std::uint64_t refused = 0;  // by our own port: full
  std::uint64_t received = 0;
  std::uint64_t checked = 0;
  std::uint64_t corrupt = 0;
  double inner_bytes = 0;  // received
  Histogram latency;

  [[nodiscard]] double rate() const { return static_cast<double>(sent) / seconds; }
  [[nodiscard]] double received_rate() const { return static_cast<double>(received) / seconds; }
  [[nodiscard]] double gbit() const { return inner_bytes * 8 / seconds / 1e9; }
  [[nodiscard]] std::uint64_t lost() const { return sent > received ? sent - received : 0; }
};

class Load {
 public:
  Load(const Options& options, Rig& rig, Random& random);

  // Handshakes (again, when sessions have grown old) and one packet of each flow. Empty, or what did not work.
  std::string prepare();
  Trial run(Direction direction, const std::vector<std::uint16_t>& sizes, double rate, double seconds);

 private:
  struct Flow {
    FlowHeaders up;
    FlowHeaders down;
    Endpoint outside;  // the translator's; port 0: not known yet
  };
  // What is being counted.
  struct Counting {
    Direction direction = Direction::up;
    Trial* trial = nullptr;  // nullptr: only learning
    double mean_size = 0;
  };

  std::string make_sessions();
  std::string make_flows();
  void send_outputs(Now now);
  std::size_t build_up(std::span<const std::uint32_t> flows, const std::vector<std::uint16_t>& sizes,
                       std::span<Packet*> packets, Now now);
  std::size_t build_down(std::span<const std::uint32_t> flows, const std::vector<std::uint16_t>& sizes,
                         std::span<Packet*> packets);
  void receive(Counting& counting);
  void receive_lan(Packet& packet, Counting& counting, std::uint64_t tsc);
  void receive_wan(Packet& packet, Counting& counting, std::uint64_t tsc);
  void sample(Bytes inner, Counting& counting, std::uint64_t tsc);
  [[nodiscard]] std::size_t client_of(std::uint32_t flow) const { return flow % options_.peers; }

  const Options& options_;
  Rig& rig_;
  Clients clients_;
  std::vector<Flow> flows_;
  std::vector<std::array<std::uint8_t, 28>> outer_;  // IPv4 and UDP headers per client
  std::vector<std::uint64_t> sent_at_;               // TSC by sequence
  std::uint64_t sequence_ = 0;
  std::uint32_t next_flow_ = 0;
  double tsc_hz_;
};

// Of this machine's time stamp counter, by the monotonic clock.
[[nodiscard]] double measure_tsc_hz();

}  // namespace penstock::generator
