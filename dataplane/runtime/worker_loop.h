// A worker: runs the packet path (gateway/graph.h) to completion over its queues and rings.
//
// One thread, its own. Never blocks on a lock, never allocates; sleeps only in adaptive mode and only when every source
// has been empty for a while: on the ports' descriptors where all have them, otherwise for intervals short enough to
// add ~200 us of latency at most (400 us after a second of silence). Asleep it is RCU-offline.
#pragma once

#include <poll.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "dataplane/gateway/pipeline.h"
#include "dataplane/gateway/worker.h"
#include "dataplane/runtime/aead_share.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/links.h"
#include "dataplane/runtime/packet_io.h"

namespace penstock::runtime {

class WorkerLoop {
 public:
  struct Setup {
    gateway::Worker* worker = nullptr;  // complete but for `packets`
    std::vector<Port*> ports;
    PacketPool* pool = nullptr;
    Platform* platform = nullptr;
    Links* links = nullptr;
    PollMode poll = PollMode::adaptive;
    std::optional<std::uint16_t> core;  // to run on
    SharedAead* shared_aead = nullptr;  // of workers that help each other
  };

  explicit WorkerLoop(const Setup& setup);
  ~WorkerLoop();  // stops

  void start();
  void stop();

  // One turn: the clock, a burst of every source, ageing, a quiescent state. True when there was something to do. What
  // the thread does over and over; for those who bring their own thread (registered with rcu) and do not start().
  bool step();

 private:
  void run();
  bool turn();
  void help(bool busy);
  bool receive_from_ports();
  bool receive_shared(std::size_t port);
  bool receive(std::size_t port, PacketBurst& burst);
  template <typename Ring, typename Process>
  bool take_from(Ring& ring, Process process);
  void drain();
  void transmit(std::size_t port, std::span<Packet* const> frames);
  template <typename Ring>
  bool pass_on(Ring& ring, gateway::PacketList& list, DropReason when_full);
  void pass_handshakes();
  void discard(std::span<Packet* const> packets, DropReason reason);
  void reclaim();
  void rest();

  const Setup setup_;
  WorkerLink& link_;
  std::vector<pollfd> descriptors_;
  bool must_poll_ = false;
  bool sent_ = false;  // since the last reclaim
  bool idle_ = false;  // as AeadShare knows it
  std::unique_ptr<gateway::Pipeline> pipeline_;  // with a shared_aead
  Instant last_busy_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace penstock::runtime
