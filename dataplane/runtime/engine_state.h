// What an Engine is made of; shared by engine.cc (life, commands) and engine_views.cc (snapshots).
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "dataplane/core/nat/peer_homes.h"
#include "dataplane/core/nat/reply_steering.h"
#include "dataplane/core/nat/translator.h"
#include "dataplane/core/wireguard/aead.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/slow_path.h"
#include "dataplane/runtime/aead_share.h"
#include "dataplane/runtime/binding_log.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/handshake_thread.h"
#include "dataplane/runtime/links.h"
#include "dataplane/runtime/rcu.h"
#include "dataplane/runtime/slow_thread.h"
#include "dataplane/runtime/system_random.h"
#include "dataplane/runtime/worker_loop.h"

namespace penstock::runtime {

// One worker with all it owns. Members are destroyed in reverse order: the loop first.
struct WorkerSet {
  std::optional<unsigned> node;  // of the worker's core, where that is pinned and the system says
  SystemRandom random;
  std::unique_ptr<wireguard::AeadContext> aead;
  std::unique_ptr<SharedAead> shared_aead;
  std::unique_ptr<RingBindingLog> binding_log;  // null: off
  std::unique_ptr<nat::Translator> translator;
  std::unique_ptr<gateway::ResendStore> resend;
  gateway::Worker worker;
  std::unique_ptr<WorkerLoop> loop;
};

struct Engine::State {
  State() = default;
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Config config;
  nat::SharedSiteSettings site;
  gateway::Configuration path;
  Parts parts;
  Links links;
  BoundedQueue<EngineEvent> events{16384};
  BoundedQueue<Punt> punts{4096};

  SystemRandom random;  // the slow path's
  KeyBytes public_key{};
  std::uint64_t instance = 0;
  Instant started;

  rcu::Reclaimer reclaimer;
  std::unique_ptr<gateway::PolicyTable> policies;
  std::unique_ptr<nat::PeerHomes> homes;
  std::unique_ptr<nat::ReplySteering> steering;  // several workers, behind a NIC that says how it spreads
  std::unique_ptr<AeadShare> aead_share;  // several busy workers
  std::unique_ptr<gateway::NeighbourTable> neighbours;
  std::unique_ptr<gateway::ResendGates> resend_gates;
  std::unique_ptr<gateway::SlowPath> slow_path;
  std::unique_ptr<SlowThread> slow;
  std::vector<std::unique_ptr<HandshakeThread>> handshakes;
  std::vector<std::unique_ptr<WorkerSet>> workers;
  std::optional<WarmStart> warm;
  Instant left_at;                        // by the process before
  std::vector<KeyBytes> inherited_keys;    // of its peers, by position
  bool running = false;
  Instant next_use_report;
  bool gates_mapped = false;   // maintain()
  std::atomic<int> sends = 0;  // handed to the slow thread by send(), not done

  // Runs `command` on the slow thread, or here when it does not run (before start, after stop).
  void on_slow_path(const SlowThread::Command& command);
  // Without waiting for it, unless too many are under way.
  void send(SlowThread::Command command);
  void report_translation_use();
  void free_everything();
};

}  // namespace penstock::runtime
