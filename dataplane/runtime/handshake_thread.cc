#include "dataplane/runtime/handshake_thread.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>

#include "dataplane/core/base/prefetch.h"
#include "dataplane/gateway/messages.h"
#include "dataplane/gateway/wire.h"
#include "dataplane/runtime/clock.h"

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;
using wireguard::GateMessage;
using wireguard::MessageType;

// Of the works, strangers, who pass only while there is no load or with a cookie, may not have the last ones.
constexpr std::size_t kWorksForKnown = 128;
// The gate's share of a turn, between two batches of multiplications: two milliseconds of a flood of two million a
// second.
constexpr std::size_t kStrangersPerTurn = 4096;
constexpr std::size_t kKnownPerTurn = 256;
// Cookie replies to us cost the Device a look-up and a decryption, and have no mac1 that would keep strangers off.
// Known sources, of whom we expect them, have as many for themselves.
constexpr std::uint32_t kCookieMessagesPerSecond = 1000;
constexpr Duration kLongestSleep = 1s;

}  // namespace

HandshakeThread::HandshakeThread(const Setup& setup)
    : own_(setup.private_key),
      pool_(*setup.pool),
      platform_(*setup.platform),
      links_(*setup.links),
      number_(setup.number),
      link_(*setup.links->handshakes[setup.number]),
      gate_(own_.public_key(), setup.limits, setup.links->known_sources, random_),
      known_cookie_messages_(kCookieMessagesPerSecond, kCookieMessagesPerSecond / 10),
      other_cookie_messages_(kCookieMessagesPerSecond, kCookieMessagesPerSecond / 10),
      works_(kWorks) {
  for (Work& work : works_) idle_.push_back(&work);
}

HandshakeThread::~HandshakeThread() {
  stop();
  for (Work& work : works_) work.forget();
}

void HandshakeThread::start() {
  thread_ = std::thread([this] { loop(); });
}

void HandshakeThread::stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  link_.wakeup.notify();
  thread_.join();
}

void HandshakeThread::loop() {
  ::pthread_setname_np(::pthread_self(), fmt::format("handshake-{}", number_).c_str());
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  platform_.enter_thread();
  while (!stop_.load(std::memory_order_relaxed)) {
    const Now now = read_clock();
    bool busy = admit(now);
    publish_counts(now);
    busy |= take_from_device();
    busy |= answer_some() || open_some();
    if (!busy) rest();
  }
  platform_.leave_thread();
}

bool HandshakeThread::take_from_device() {
  Work* taken[kBurst];
  const std::size_t n = link_.from_device.pop(std::span<Work*>(taken));
  for (std::size_t i = 0; i < n; ++i) {
    if (taken[i]->stage == Work::Stage::claimed) {
      claimed_.push_back(taken[i]);
    } else {
      idle_.push_back(taken[i]);
    }
  }
  return n > 0;
}

std::span<HandshakeThread::Work*> HandshakeThread::take(std::deque<Work*>& queue) {
  const std::size_t n = std::min(queue.size(), batch_.size());
  std::copy_n(queue.begin(), n, batch_.begin());
  queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(n));
  return std::span(batch_).first(n);
}

bool HandshakeThread::answer_some() {
  const std::span<Work*> works = take(claimed_);
  wireguard::answer_initiations(own_, random_, works);
  for (Work* work : works) {
    work->stage = Work::Stage::answered;
    answered_count_ += work->answered;
    to_device(work);
  }
  return !works.empty();
}

bool HandshakeThread::open_some() {
  const std::span<Work*> works = take(known_.empty() ? others_ : known_);
  wireguard::open_initiations(own_, works);
  for (Work* work : works) {
    if (work->result == DropReason::none) {
      work->stage = Work::Stage::opened;
      to_device(work);
    } else {
      count(work->result);
      idle_.push_back(work);
    }
  }
  return !works.empty();
}

void HandshakeThread::to_device(Work* work) {
  link_.to_device.push(work);  // has room for all works
  links_.slow.notify();
}

bool HandshakeThread::admit(Now now) {
  std::size_t taken = 0;
  bool flooded = false;
  for (auto& worker : links_.workers) {
    HandshakeRings& rings = *worker->handshakes[number_];
    flooded |= rings.strangers.size() > rings.strangers.capacity() / 2;
  }
  gate_.set_under_load(flooded);
  for (auto& worker : links_.workers) {
    HandshakeRings& rings = *worker->handshakes[number_];
    replied_ = false;
    std::size_t n = 0;
    for (std::size_t got = kGateBatch; got == kGateBatch && n < kKnownPerTurn; n += got)
      got = admit_from(rings.known, rings, true, now);
    taken += n;
    n = 0;
    for (std::size_t got = kGateBatch; got == kGateBatch && n < kStrangersPerTurn; n += got)
      got = admit_from(rings.strangers, rings, false, now);
    taken += n;
    if (replied_) worker->wakeup.notify();
  }
  return taken > 0;
}

std::size_t HandshakeThread::admit_from(SpscRing<Packet*>& ring, HandshakeRings& rings, bool known, Now now) {
  Packet* packets[kGateBatch];
  const std::size_t n = ring.pop(std::span<Packet*>(packets));
  for (std::size_t i = 0; i < n; ++i) {  // they were written on another core
    prefetch_read(packets[i]->data);
    prefetch_read(packets[i]->data + 64);
    prefetch_read(packets[i]->data + 128);
  }
  if (n > 0) gate({packets, n}, rings, known, now);
  return n;
}

void HandshakeThread::gate(std::span<Packet*> packets, HandshakeRings& rings, bool known, Now now) {
  GateMessage messages[kGateBatch];
  Packet* of[kGateBatch];
  Packet* done[kGateBatch];
  std::size_t judged = 0, finished = 0;
  const auto finish = [&](Packet* packet, DropReason reason) {
    count(reason);
    done[finished++] = packet;
  };
  const auto pass = [&](Packet* packet) {
    const DropReason reason = let_in(*packet, known);
    if (reason != DropReason::none) finish(packet, reason);
  };
  for (Packet* packet : packets) {
    if (wireguard::classify(packet->bytes()) == MessageType::cookie) {
      if ((known ? known_cookie_messages_ : other_cookie_messages_).take(now.monotonic)) {
        pass(packet);
      } else {
        finish(packet, DropReason::wg_rate_limited);
      }
      continue;
    }
    of[judged] = packet;
    messages[judged].bytes = packet->bytes();
    messages[judged++].source = packet->outer.remote;
  }
  gate_.judge({messages, judged}, now.monotonic);
  for (std::size_t i = 0; i < judged; ++i) {
    const GateMessage& message = messages[i];
    if (message.verdict == DropReason::none) {
      pass(of[i]);
      continue;
    }
    if (message.answer && answer_with_cookie(of[i], message.reply, rings)) {
      count(message.verdict);
    } else {
      finish(of[i], message.verdict);
    }
  }
  if (finished > 0) pool_.release({done, finished});
}

// Behind the gate: an initiation becomes a work (and its packet is done with), everything else goes to the Device.
// none: the packet is on its way; local_consumed or a reason otherwise.
DropReason HandshakeThread::let_in(Packet& packet, bool known) {
  if (wireguard::classify(packet.bytes()) != MessageType::initiation) {
    gateway::set_kind(packet, gateway::ToSlow::admitted_handshake);
    if (!link_.admitted.push(&packet)) return DropReason::slow_ring_full;
    links_.slow.notify();
    return DropReason::none;
  }
  if (idle_.size() <= (known ? 0 : kWorksForKnown)) return DropReason::handshake_ring_full;
  Work* work = idle_.back();
  idle_.pop_back();
  std::memcpy(&work->message, packet.data, sizeof work->message);
  work->from = packet.outer;
  work->stage = Work::Stage::received;
  (known ? known_ : others_).push_back(work);
  return DropReason::local_consumed;
}

// In the buffer that brought the message. False: no room; the packet is still the caller's.
bool HandshakeThread::answer_with_cookie(Packet* packet, const wireguard::CookieMessage& reply,
                                         HandshakeRings& rings) {
  gateway::make_own(*packet);
  gateway::set_kind(*packet, gateway::ToWorker::datagram);
  std::memcpy(packet->data, &reply, sizeof reply);
  packet->truncate(sizeof reply);
  if (!rings.replies.push(packet)) return false;
  replied_ = true;
  return true;
}

bool HandshakeThread::has_input() const {
  if (stop_.load(std::memory_order_relaxed) || !link_.from_device.empty()) return true;
  return std::any_of(links_.workers.begin(), links_.workers.end(), [this](const auto& worker) {
    const HandshakeRings& rings = *worker->handshakes[number_];
    return !rings.known.empty() || !rings.strangers.empty();
  });
}

void HandshakeThread::rest() {
  link_.wakeup.prepare();
  if (!has_input()) link_.wakeup.wait({}, kLongestSleep);
  link_.wakeup.finish();
}

void HandshakeThread::publish_counts(Now now) {
  constexpr auto relaxed = std::memory_order_relaxed;
  const wireguard::HandshakeGate::Counts& gate = gate_.counts();
  published_.answered.store(answered_count_, relaxed);
  published_.known.store(gate.known, relaxed);
  published_.proved.store(gate.proved, relaxed);
  published_.cookies.store(gate.cookies, relaxed);
  published_.under_load.store(gate_.under_load(now.monotonic), relaxed);
  const bool overrun = gate_.overrun(now.monotonic);
  if (link_.overrun.load(relaxed) != overrun) link_.overrun.store(overrun, relaxed);
}

HandshakeThread::Counts HandshakeThread::counts() const {
  constexpr auto relaxed = std::memory_order_relaxed;
  return {published_.answered.load(relaxed), published_.known.load(relaxed), published_.proved.load(relaxed),
          published_.cookies.load(relaxed), published_.under_load.load(relaxed)};
}

void HandshakeThread::count(DropReason reason) {
  std::atomic<std::uint64_t>& counter = drops_[static_cast<std::size_t>(reason)];
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace penstock::runtime
