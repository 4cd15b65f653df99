#include "dataplane/runtime/worker_loop.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <algorithm>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/gateway/graph.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/rcu.h"

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;

// How long a worker looks for more after the last packet before it sleeps: longer than the gap between the packets of
// a busy flow, short against a scheduler's turn.
constexpr Duration kSpin = 30us;
// Sleeps between looks at a port without a descriptor: soon after traffic, later, and long after it.
constexpr Duration kShortNap = 50us;
constexpr Duration kNap = 150us;
constexpr Duration kLongNap = 400us;
constexpr Duration kRecently = 5ms;
constexpr Duration kLongAgo = 1s;
// Flows age in small steps at least this often.
constexpr Duration kLongestSleep = 50ms;

constexpr int kSendAttempts = 8;
// How many bursts of handshakes a port may have in a turn: enough to catch up after a gap, and data keeps more than
// half of the time whatever comes.
constexpr int kBurstsOfHandshakes = 6;
// How many data may have, on a worker that others help: the first and the last of them wait for their encryption.
constexpr std::size_t kBurstsTogether = 6;

}  // namespace

WorkerLoop::WorkerLoop(const Setup& setup) : setup_(setup), link_(*setup.links->workers[setup.worker->id]) {
  for (const Port* port : setup_.ports) {
    const int fd = port->wait_descriptor(setup_.worker->id);
    if (fd == Port::kMustPoll || descriptors_.size() == Wakeup::kMaxOthers) must_poll_ = true;
    if (fd >= 0 && descriptors_.size() < Wakeup::kMaxOthers) descriptors_.push_back({fd, POLLIN, 0});
  }
  if (setup_.shared_aead != nullptr)
    pipeline_ = std::make_unique<gateway::Pipeline>(*setup_.worker, *setup_.shared_aead);
}

WorkerLoop::~WorkerLoop() {
  stop();
}

void WorkerLoop::start() {
  thread_ = std::thread([this] { run(); });
}

void WorkerLoop::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  link_.wakeup.notify();
  thread_.join();
}

void WorkerLoop::run() {
  const std::string name = fmt::format("worker-{}", setup_.worker->id);
  ::pthread_setname_np(::pthread_self(), name.c_str());
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  if (setup_.core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(*setup_.core, &set);
    if (const int error = ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set); error != 0)
      spdlog::warn("{} cannot be pinned to core {}: {}", name, *setup_.core, std::strerror(error));
  }
  setup_.platform->enter_thread();
  {
    const rcu::ThreadRegistration registration;
    while (!stop_.load(std::memory_order_relaxed)) {
      const bool busy = step();
      if (!busy && setup_.poll == PollMode::adaptive && setup_.worker->now.monotonic - last_busy_ > kSpin) rest();
    }
  }
  if (idle_) setup_.shared_aead->set_idle(false);
  reclaim();
  setup_.platform->leave_thread();
}

bool WorkerLoop::step() {
  setup_.worker->now = read_clock();
  const bool busy = turn();
  if (busy) {
    ++setup_.worker->counters.busy_loops;
    last_busy_ = setup_.worker->now.monotonic;
  }
  ++setup_.worker->counters.loops;
  rcu::quiescent();
  if (setup_.shared_aead != nullptr) help(busy);
  return busy;
}

void WorkerLoop::help(bool busy) {
  if (busy == idle_) {
    idle_ = !busy;
    setup_.shared_aead->set_idle(idle_);
  }
  if (idle_) setup_.shared_aead->help();
}

// One burst of each source, so that none starves another (trap: io-9).
bool WorkerLoop::turn() {
  bool busy = receive_from_ports();
  busy |= take_from(link_.injected, gateway::process_injected);
  for (auto& rings : link_.handshakes) busy |= take_from(rings->replies, gateway::process_injected);
  busy |= take_from(link_.handover, gateway::process_handover);
  busy |= take_from(link_.from_kernel, gateway::process_exception);
  gateway::end_of_loop(*setup_.worker);
  drain();
  return busy;
}

// A port full of handshakes is looked at again: they cost a tenth of what data costs, and in a flood of them the port's
// queue would overflow, and lose what comes with them, long before the time is used up.
bool WorkerLoop::receive_from_ports() {
  bool busy = false;
  PacketBurst burst;
  for (std::size_t i = 0; i < setup_.ports.size(); ++i) {
    if (pipeline_ != nullptr && setup_.shared_aead->shared()) {
      busy |= receive_shared(i);
      continue;
    }
    bool again = true;
    for (int bursts = 0; again && bursts < kBurstsOfHandshakes; ++bursts) {
      if (!receive(i, burst)) break;
      const std::size_t burst_size = burst.size();
      again = burst.full();
      gateway::process_rx(*setup_.worker, burst);
      again = again && setup_.worker->out.handshake.size() > burst_size / 2;
      setup_.worker->enter(gateway::Stage::io, burst_size);
      drain();
      busy = true;
    }
  }
  return busy;
}

// False: there is nothing.
bool WorkerLoop::receive(std::size_t port, PacketBurst& burst) {
  burst.clear();
  setup_.ports[port]->receive(setup_.worker->id, burst);
  for (Packet* packet : burst) packet->port = static_cast<PortIndex>(port);
  return !burst.empty();
}

// With the help of others several bursts are under way at once, so more than one is taken where there is more.
bool WorkerLoop::receive_shared(std::size_t port) {
  PacketBurst burst;
  std::size_t taken = 0;
  for (bool again = true; again && taken < kBurstsTogether * kBurst && receive(port, burst);) {
    again = burst.full();
    taken += burst.size();
    pipeline_->take(burst);
    setup_.worker->enter(gateway::Stage::io, 0);
    drain();
  }
  if (taken == 0) return false;
  pipeline_->finish();
  setup_.worker->enter(gateway::Stage::io, taken);
  drain();
  return true;
}

template <typename Ring, typename Process>
bool WorkerLoop::take_from(Ring& ring, Process process) {
  PacketBurst burst;
  Packet* taken[kBurst];
  const std::size_t n = ring.pop(std::span<Packet*>(taken));
  if (n == 0) return false;
  for (std::size_t i = 0; i < n; ++i) burst.add(taken[i]);
  process(*setup_.worker, burst);
  setup_.worker->enter(gateway::Stage::io, n);
  drain();
  return true;
}

void WorkerLoop::drain() {
  gateway::Outputs& out = setup_.worker->out;
  // The slow thread first: a peer that has moved shall be known to have moved before the answer to its packet is here.
  bool wake = false;
  if (link_.handshakes.empty()) {
    wake = pass_on(link_.handshake, out.handshake, DropReason::handshake_ring_full);
  } else if (!out.handshake.empty()) {
    pass_handshakes();
  }
  wake |= pass_on(link_.slow, out.slow, DropReason::slow_ring_full);
  wake |= pass_on(link_.exception, out.exception, DropReason::exception_full);
  if (wake) setup_.links->slow.notify();
  for (std::size_t port = 0; port < setup_.ports.size(); ++port) {
    if (out.tx[port].empty()) continue;
    transmit(port, {out.tx[port].begin(), out.tx[port].end()});
    out.tx[port].clear();
  }
  for (std::size_t other = 0; other < setup_.links->workers.size(); ++other) {
    WorkerLink& link = *setup_.links->workers[other];
    if (pass_on(link.handover, out.handover[other], DropReason::flow_handover_full)) link.wakeup.notify();
  }
  if (!out.dropped.empty()) {
    setup_.pool->release({out.dropped.begin(), out.dropped.end()});
    out.dropped.clear();
  }
}

// trap: io-7 — a queue may take a part only; what it does not take after a bounded number of tries is dropped.
void WorkerLoop::transmit(std::size_t port, std::span<Packet* const> frames) {
  for (int attempt = 0; !frames.empty() && attempt < kSendAttempts; ++attempt) {
    if (attempt > 0) __builtin_ia32_pause();
    frames = frames.subspan(setup_.ports[port]->send(setup_.worker->id, frames));
  }
  discard(frames, DropReason::tx_full);
  sent_ = true;
}

template <typename Ring>
bool WorkerLoop::pass_on(Ring& ring, gateway::PacketList& list, DropReason when_full) {
  if (list.empty()) return false;
  const std::span<Packet* const> packets(list.begin(), list.end());
  discard(packets.subspan(ring.push(packets)), when_full);
  list.clear();
  return true;
}

// What is done here for each message is what a flood costs this worker's data.
void WorkerLoop::pass_handshakes() {
  const Links& links = *setup_.links;
  gateway::PacketList& list = setup_.worker->out.handshake;
  std::uint64_t tags[gateway::PacketList::kCapacity];
  for (std::size_t i = 0; i < list.size(); ++i) {
    tags[i] = links.known_sources->prefetch(list[i]->outer.remote.address);
    prefetch_read(list[i]->data + sizeof(wireguard::InitiationMessage) - wireguard::kMacSize);
  }
  Packet* refused[gateway::PacketList::kCapacity];
  Packet* away[gateway::PacketList::kCapacity];
  std::size_t count = 0, away_count = 0;
  std::uint64_t woken = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::size_t thread = links.handshake_thread_of(list[i]->outer.remote.address);
    HandshakeRings& rings = *link_.handshakes[thread];
    const bool known = links.known_sources->peers_with(tags[i]) != 0;
    if (!known && links.handshakes[thread]->overrun.load(std::memory_order_relaxed) &&
        rings.stranger_limit.turns_away(list[i]->bytes(), setup_.worker->now.monotonic)) {
      away[away_count++] = list[i];
      continue;
    }
    if (!(known ? rings.known : rings.strangers).push(list[i])) refused[count++] = list[i];
    woken |= std::uint64_t{1} << thread;
  }
  list.clear();
  discard({refused, count}, DropReason::handshake_ring_full);
  discard({away, away_count}, DropReason::wg_mac2_required);
  for (std::size_t thread = 0; woken != 0; ++thread, woken >>= 1)
    if ((woken & 1) != 0) links.handshakes[thread]->wakeup.notify();
}

void WorkerLoop::discard(std::span<Packet* const> packets, DropReason reason) {
  if (packets.empty()) return;
  setup_.worker->counters.drops[static_cast<std::size_t>(reason)] += packets.size();
  setup_.pool->release(packets);
}

void WorkerLoop::reclaim() {
  if (!sent_) return;
  for (Port* port : setup_.ports) port->reclaim_sent(setup_.worker->id);
  sent_ = false;
}

void WorkerLoop::rest() {
  reclaim();
  const Duration idle = setup_.worker->now.monotonic - last_busy_;
  const Duration at_most = !must_poll_        ? kLongestSleep
                           : idle < kRecently ? kShortNap
                           : idle < kLongAgo  ? kNap
                                              : kLongNap;
  // Copies that wait for their turn: no timer fires for them.
  const gateway::ResendStore* resend = setup_.worker->resend;
  const Duration until_copies = resend == nullptr ? at_most : resend->next() - setup_.worker->now.monotonic;
  link_.wakeup.prepare();
  if (!link_.has_input() && !stop_.load(std::memory_order_relaxed)) {
    const rcu::Offline offline;
    link_.wakeup.wait(descriptors_, std::clamp<Duration>(until_copies, kShortNap, at_most));
  }
  link_.wakeup.finish();
}

}  // namespace penstock::runtime
