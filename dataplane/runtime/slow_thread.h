// The thread that drives gateway::SlowPath: WireGuard sessions and timers, neighbours, held packets, the kernel's TAP.
//
// Sleeps on an eventfd until a worker, a handshake thread, a caller, the kernel or the next deadline wants something;
// RCU-offline meanwhile. The costly part of handshakes is done by handshake threads (handshake_thread.h); where there
// are none, by this one, few at a time, so that a flood of them delays nothing else by more than a millisecond.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/gateway/slow_path.h"
#include "dataplane/runtime/bounded_queue.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/links.h"
#include "dataplane/runtime/packet_io.h"

namespace penstock::runtime {

class SlowThread {
 public:
  using Command = std::function<void(gateway::SlowPath&, Now)>;

  struct Setup {
    gateway::SlowPath* path = nullptr;
    PacketPool* pool = nullptr;
    KernelPort* kernel = nullptr;  // nullptr: no exception path
    Platform* platform = nullptr;
    Links* links = nullptr;
    BoundedQueue<EngineEvent>* events = nullptr;
    BoundedQueue<Punt>* punts = nullptr;
  };

  explicit SlowThread(const Setup& setup);
  ~SlowThread();  // stops

  void start();
  void stop();

  // Runs the command soon; false: the thread has ended and never will. Any thread but this one.
  bool post(Command command);
  // The same, and returns when it has run.
  bool run(Command command);

  // Packets that found a ring or the kernel full; read from any thread.
  [[nodiscard]] std::uint64_t drops(DropReason reason) const {
    return drops_[static_cast<std::size_t>(reason)].load(std::memory_order_relaxed);
  }

 private:
  void loop();
  bool take_packets(Now now);
  bool take_handshakes(HandshakeLink& link, Now now);
  bool exchange_with_kernel();
  bool run_commands(Now now);
  void deliver(Now now);
  void publish_events();
  void rest(Now now);
  [[nodiscard]] bool has_input();
  void drop(Packet* packet, DropReason reason);

  const Setup setup_;
  std::mutex mutex_;
  std::deque<Command> commands_;
  bool ended_ = true;
  std::array<std::atomic<std::uint64_t>, kDropReasonCount> drops_{};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace penstock::runtime
