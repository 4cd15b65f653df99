#include "perf/harness/window.h"

#include <fmt/format.h>
#include <pthread.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "dataplane/runtime/rcu.h"

namespace penstock::perf {
namespace {

std::uint64_t read_cycles() {
  return __rdtsc();
}

void pin(std::uint16_t core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

}  // namespace

std::vector<std::uint16_t> imix() {
  return {64, 64, 64, 64, 64, 64, 64, 576, 576, 576, 576, 1420};
}

std::size_t packets_in(const MemoryPool& pool, std::size_t bytes) {
  return std::max<std::size_t>(kBurst, bytes / pool.stride() / kBurst * kBurst);
}

Window::Window(BenchGateway& gateway, const Traffic& traffic, std::uint64_t seed)
    : gateway_(gateway),
      traffic_(traffic),
      random_(seed),
      flows_of_(gateway.shape().workers),
      frames_(gateway.shape().workers) {
  for (std::uint32_t number = 0; number < gateway.shape().flows; ++number)
    flows_of_[gateway.home_of(flow_of(number, gateway.shape().peers), traffic.up)].push_back(number);
}

void Window::lay_worker(std::uint16_t worker) {
  auto& frames = frames_[worker];
  const auto& flows = flows_of_[worker];
  frames.clear();
  std::vector<wireguard::AeadJob> jobs;
  jobs.reserve(traffic_.packets);
  Flow flow;
  for (std::size_t i = 0; i < traffic_.packets && !flows.empty(); ++i) {
    if (i % traffic_.train == 0) flow = flow_of(flows[random_() % flows.size()], gateway_.shape().peers);
    const std::uint16_t size = traffic_.sizes[random_() % traffic_.sizes.size()];
    const auto number = static_cast<std::uint32_t>(sent_.size());
    wireguard::AeadJob job;
    Packet* frame = traffic_.up ? gateway_.frame_from_client(worker, flow, size, number, tcp_flag::ack, job)
                                : gateway_.frame_from_server(worker, flow, size, number, tcp_flag::ack);
    if (frame == nullptr) break;
    if (traffic_.up) jobs.push_back(job);
    frames.push_back(frame);
    sent_.push_back({flow, size});
    bytes_ += size;
  }
  if (traffic_.up) gateway_.seal(jobs);
  gateway_.port(traffic_.up ? kWan : kLan).lay_ready(worker, frames);
}

void Window::prepare() {
  sent_.clear();
  bytes_ = 0;
  for (std::uint16_t w = 0; w < gateway_.shape().workers; ++w) lay_worker(w);
  drops_before_ = gateway_.drops();
}

// What a worker was given has left it; what others hand over to it shows in `busy`.
bool Window::finished(std::uint16_t worker) const {
  return gateway_.port(traffic_.up ? kWan : kLan).left(worker) == 0;
}

Outcome Window::run(bool stages) {
  const std::uint16_t workers = gateway_.shape().workers;
  Outcome out;
  out.packets = sent_.size();
  out.bytes = bytes_;
  for (std::uint16_t w = 0; w < workers; ++w) {
    gateway_.aead(w).cycles = 0;
    gateway::StageClock& clock = gateway_.worker(w).stage_clock;
    clock = {};
    if (stages) clock.clock = read_cycles;
    clock.since = __rdtsc();
  }
  if (workers == 1) {
    const std::uint64_t start = __rdtsc();
    while (!finished(0)) gateway_.step(0);
    while (gateway_.step(0)) {
    }
    out.cycles = __rdtsc() - start;
  } else {
    // A window ends when every packet has come out: then all workers see `done` reach the number of packets.
    std::atomic<unsigned> ready{0};
    std::atomic<std::uint64_t> done{0};
    std::vector<std::uint64_t> spent(workers);
    std::vector<std::thread> threads;
    for (std::uint16_t w = 0; w < workers; ++w) {
      threads.emplace_back([&, w] {
        pin(w);
        const runtime::rcu::ThreadRegistration registration;
        ready.fetch_add(1);
        while (ready.load() < workers) {
        }
        const std::uint64_t start = __rdtsc();
        std::uint64_t finish = start;
        std::size_t before = 0;
        const MemoryPort& way_out = gateway_.port(traffic_.up ? kLan : kWan);
        while (done.load(std::memory_order_relaxed) < out.packets) {
          if (!gateway_.step(w)) {
            if (__rdtsc() - finish > 1'000'000'000) break;  // something was lost; verify() says so
            continue;
          }
          finish = __rdtsc();
          const std::size_t now = way_out.sent(w).size();
          if (finished(w) || now - before > 1024) {
            done.fetch_add(now - before, std::memory_order_relaxed);
            before = now;
          }
        }
        spent[w] = finish - start;
      });
    }
    for (auto& thread : threads) thread.join();
    out.cycles = *std::max_element(spent.begin(), spent.end());
  }
  for (std::uint16_t w = 0; w < workers; ++w) {
    out.aead_cycles += gateway_.aead(w).cycles;
    gateway::StageClock& clock = gateway_.worker(w).stage_clock;
    if (stages) clock.enter(gateway::Stage::io);
    for (std::size_t i = 0; i < clock.cycles.size(); ++i) out.stage_cycles[i] += clock.cycles[i];
    clock.clock = nullptr;
  }
  gateway_.take_notes();
  return out;
}

std::string Window::verify(unsigned samples) {
  MemoryPort& port = gateway_.port(traffic_.up ? kLan : kWan);
  if (gateway_.drops() != drops_before_) return "drops: " + gateway_.describe_drops();
  std::size_t came_out = 0;
  for (std::uint16_t w = 0; w < gateway_.shape().workers; ++w) came_out += port.sent(w).size();
  if (came_out != sent_.size()) return fmt::format("{} of {} packets came out", came_out, sent_.size());
  const auto expected = [this](std::uint32_t number) {
    return number < sent_.size() ? &sent_[number] : nullptr;
  };
  for (std::uint16_t w = 0; w < gateway_.shape().workers; ++w) {
    const auto frames = port.sent(w);
    for (unsigned i = 0; i < samples && !frames.empty(); ++i) {
      Packet* frame = frames[random_() % frames.size()];
      // A frame that is decrypted is no longer one: its copy is looked at.
      std::vector<std::uint8_t> copy(frame->data, frame->data + frame->length);
      const std::string wrong =
          traffic_.up ? gateway_.check_lan_frame(expected, copy) : gateway_.check_wan_frame(expected, copy);
      if (!wrong.empty()) return "a wrong packet came out: " + wrong;
    }
  }
  return {};
}

void Window::measure_raw(Outcome& outcome) {
  std::vector<wireguard::AeadJob> jobs;
  const MemoryPort& port = gateway_.port(traffic_.up ? kLan : kWan);
  const auto frames = port.sent(0);
  jobs.reserve(frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Packet* frame = frames[i];
    const Sent& sent = sent_[i];
    const ClientSession& session = gateway_.session(sent.flow.peer);
    // Where the payload of the message stands: behind 128 bytes and the outer headers, on any alignment it likes.
    std::uint8_t* data = reinterpret_cast<std::uint8_t*>(frame + 1) + kMinHeadroom + 58;
    jobs.push_back({session.send_key.data(), i, data,
                    wireguard::padded_length(sent.size, gateway_.shape().inner_mtu), false});
  }
  if (traffic_.up) gateway_.seal(jobs);  // so that tags are right when they are opened
  CountedAead& aead = gateway_.aead(0);
  const std::uint64_t start = __rdtsc();
  for (std::size_t at = 0; at < jobs.size(); at += kBurst) {
    const auto burst = std::span(jobs).subspan(at, std::min(kBurst, jobs.size() - at));
    if (traffic_.up) {
      aead.open(burst);
    } else {
      aead.seal(burst);
    }
  }
  outcome.raw_cycles = __rdtsc() - start;
  outcome.raw_packets = jobs.size();
}

void Window::clean_up() {
  gateway_.free_sent();
}

}  // namespace penstock::perf
