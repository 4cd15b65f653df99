#include "dataplane/runtime/slow_thread.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>

#include <algorithm>
#include <future>

#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/rcu.h"

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kHandshakesPerTurn = 16;  // tens of microseconds each
constexpr std::size_t kKernelFramesPerTurn = 64;
constexpr Duration kLongestSleep = 1s;

}  // namespace

SlowThread::SlowThread(const Setup& setup) : setup_(setup) {}

SlowThread::~SlowThread() {
  stop();
}

void SlowThread::start() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = false;
  }
  thread_ = std::thread([this] { loop(); });
}

void SlowThread::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  setup_.links->slow.notify();
  thread_.join();
}

bool SlowThread::post(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return false;
    commands_.push_back(std::move(command));
  }
  setup_.links->slow.notify();
  return true;
}

bool SlowThread::run(Command command) {
  std::promise<void> done;
  const bool posted = post([&](gateway::SlowPath& path, Now now) {
    command(path, now);
    done.set_value();
  });
  if (posted) done.get_future().wait();
  return posted;
}

void SlowThread::loop() {
  ::pthread_setname_np(::pthread_self(), "slow");
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  setup_.platform->enter_thread();
  {
    const rcu::ThreadRegistration registration;
    while (!stop_.load(std::memory_order_relaxed)) {
      const Now now = read_clock();
      bool busy = take_packets(now);
      busy |= exchange_with_kernel();
      busy |= run_commands(now);
      if (now.monotonic >= setup_.path->poll_timeout().at) setup_.path->handle_timeout(now);
      deliver(now);
      rcu::quiescent();
      if (!busy) rest(now);
    }
    // Who waits for a command gets its result; later ones are refused.
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    run_commands(read_clock());
    deliver(read_clock());
  }
  setup_.platform->leave_thread();
}

bool SlowThread::take_packets(Now now) {
  bool busy = false;
  Packet* taken[kBurst];
  bool flooded = false;
  for (auto& link : setup_.links->workers) {
    flooded |= link->handshake.size() > link->handshake.capacity() / 2;
    if (const std::size_t n = link->handshake.pop(std::span<Packet*>(taken, kHandshakesPerTurn)); n > 0) {
      setup_.path->handle(std::span<Packet* const>(taken, n), now);
      busy = true;
    }
    if (const std::size_t n = link->slow.pop(std::span<Packet*>(taken)); n > 0) {
      setup_.path->handle(std::span<Packet* const>(taken, n), now);
      busy = true;
    }
  }
  setup_.path->tunnels().set_under_load(flooded);
  for (auto& link : setup_.links->handshakes) busy |= take_handshakes(*link, now);
  return busy;
}

// The Device's share of what handshake threads do: microseconds each.
bool SlowThread::take_handshakes(HandshakeLink& link, Now now) {
  wireguard::InitiationWork* works[kBurst];
  Packet* packets[kBurst];
  const std::size_t n = link.to_device.pop(std::span<wireguard::InitiationWork*>(works));
  for (std::size_t i = 0; i < n; ++i) setup_.path->handle_initiation(*works[i], now);
  if (n > 0) {
    link.from_device.push(std::span<wireguard::InitiationWork* const>(works, n));  // as long as there are works
    link.wakeup.notify();
  }
  const std::size_t admitted = link.admitted.pop(std::span<Packet*>(packets, kHandshakesPerTurn));
  if (admitted > 0) setup_.path->handle(std::span<Packet* const>(packets, admitted), now);
  return n + admitted > 0;
}

bool SlowThread::exchange_with_kernel() {
  bool busy = false;
  Packet* taken[kBurst];
  for (auto& link : setup_.links->workers) {
    const std::size_t n = link->exception.pop(std::span<Packet*>(taken));
    for (std::size_t i = 0; i < n; ++i) {
      if (setup_.kernel != nullptr && setup_.kernel->send(*taken[i])) {
        setup_.pool->release(std::span<Packet* const>(&taken[i], 1));
      } else {
        drop(taken[i], DropReason::exception_full);
      }
    }
    busy |= n > 0;
  }
  if (setup_.kernel == nullptr) return busy;
  WorkerLink& link = *setup_.links->workers[0];
  std::size_t received = 0;
  while (received < kKernelFramesPerTurn) {
    Packet* packet = setup_.kernel->receive(*setup_.pool);
    if (packet == nullptr) break;
    ++received;
    if (!link.from_kernel.push(packet)) drop(packet, DropReason::exception_full);
  }
  if (received > 0) link.wakeup.notify();
  return busy || received > 0;
}

bool SlowThread::run_commands(Now now) {
  std::deque<Command> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(commands_);
  }
  for (auto& command : commands) command(*setup_.path, now);
  return !commands.empty();
}

void SlowThread::deliver(Now) {
  gateway::SlowOutput& output = setup_.path->output();
  std::uint64_t woken = 0;
  for (Packet* packet : output.to_workers) {
    const std::size_t worker = packet->rss_worker < setup_.links->workers.size() ? packet->rss_worker : 0;
    if (setup_.links->workers[worker]->injected.push(packet)) {
      woken |= std::uint64_t{1} << worker;
    } else {
      drop(packet, DropReason::flow_handover_full);
    }
  }
  output.to_workers.clear();
  for (std::size_t worker = 0; woken != 0; ++worker, woken >>= 1)
    if ((woken & 1) != 0) setup_.links->workers[worker]->wakeup.notify();

  for (Packet* packet : output.punt) {
    Punt punt;
    punt.remote = packet->outer.remote;
    punt.payload.assign(packet->data, packet->data + packet->length);
    if (packet->peer != kNoPeer)
      if (const auto info = setup_.path->tunnels().peer_info(packet->peer)) punt.peer = info->config.public_key.bytes;
    if (setup_.punts->push(std::move(punt))) {
      setup_.pool->release(std::span<Packet* const>(&packet, 1));
    } else {
      drop(packet, DropReason::control_ring_full);
    }
  }
  output.punt.clear();

  if (!output.freed.empty()) {
    setup_.pool->release(output.freed);
    output.freed.clear();
  }
  publish_events();
}

void SlowThread::publish_events() {
  using Kind = EngineEvent::Kind;
  while (const auto event = setup_.path->poll_event()) {
    EngineEvent out;
    if (const auto* up = std::get_if<gateway::SessionUp>(&*event)) {
      out.kind = Kind::session_up;
      out.peer = up->key;
      out.endpoint = up->endpoint;
    } else if (const auto* down = std::get_if<gateway::SessionDown>(&*event)) {
      out.kind = Kind::session_down;
      out.peer = down->key;
    } else if (const auto* moved = std::get_if<gateway::EndpointChanged>(&*event)) {
      out.kind = Kind::endpoint_changed;
      out.peer = moved->key;
      out.endpoint = moved->endpoint;
    } else if (const auto* mapped = std::get_if<gateway::MappedAddressChanged>(&*event)) {
      out.kind = Kind::mapped_address_changed;
      out.server = mapped->server;
      out.endpoint = mapped->mapped;
    } else if (const auto* wanted = std::get_if<gateway::TranslationWanted>(&*event)) {
      out.kind = Kind::translation_wanted;
      out.peer = wanted->key;
      out.address = wanted->proxy_address;
    }
    setup_.events->push(std::move(out));
  }
}

bool SlowThread::has_input() {
  if (stop_.load(std::memory_order_relaxed)) return true;
  for (const auto& link : setup_.links->workers)
    if (!link->handshake.empty() || !link->slow.empty() || !link->exception.empty()) return true;
  for (const auto& link : setup_.links->handshakes)
    if (!link->to_device.empty() || !link->admitted.empty()) return true;
  const std::lock_guard lock(mutex_);
  return !commands_.empty();
}

void SlowThread::rest(Now now) {
  const Instant deadline = setup_.path->poll_timeout().at;
  const Duration at_most = deadline - now.monotonic > kLongestSleep ? kLongestSleep : deadline - now.monotonic;
  if (at_most <= Duration::zero()) return;
  pollfd kernel{setup_.kernel == nullptr ? -1 : setup_.kernel->wait_descriptor(), POLLIN, 0};
  setup_.links->slow.prepare();
  if (!has_input()) {
    const rcu::Offline offline;
    setup_.links->slow.wait(std::span<pollfd>(&kernel, 1), at_most);
  }
  setup_.links->slow.finish();
}

void SlowThread::drop(Packet* packet, DropReason reason) {
  drops_[static_cast<std::size_t>(reason)].fetch_add(1, std::memory_order_relaxed);
  setup_.pool->release(std::span<Packet* const>(&packet, 1));
}

}  // namespace penstock::runtime
