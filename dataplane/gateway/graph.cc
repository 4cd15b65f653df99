#include "dataplane/gateway/graph.h"

#include <array>
#include <vector>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/crypto_burst.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

bool is_ours(const Worker& worker, const IpAddress& address) {
  return worker.configuration->ours.find(address) != nullptr || worker.configuration->is_routed_client(address);
}

// Slots: two bursts being sealed and two being opened, so that one is begun before the one before is waited for.
constexpr unsigned kSealing = 0, kOpening = 2;
static_assert(kOpening + 2 == wireguard::AeadOffers::kSlots);

// What is being sealed while its worker goes on: at most one burst between two calls.
struct Deferred {
  wireguard::AeadOffers& offers;
  std::array<Sealing, 2> sealings{};
  unsigned latest = 0;
};

// The packets of one call of the graph between the stages. Bursts that fill up are sent on at once, the rest by
// finish(). Order within a direction is kept.
class Call {
 public:
  explicit Call(Worker& worker, Deferred* deferred = nullptr) : worker_(worker), deferred_(deferred) {}

  void outside(Packet* packet) {
    if (outside_.full()) flush_outside();
    outside_.add(packet);
  }
  void inside(Packet* packet) {
    if (inside_.full()) flush_inside();
    worker_.tunnels->prefetch_peer(worker_.id + 1U, packet->peer);  // for encap
    inside_.add(packet);
  }
  void outside(PacketBurst& packets) {
    for (Packet* packet : packets) outside(packet);
  }

  void up(PacketBurst& packets) {
    if (packets.empty()) return;
    translate_up(worker_, packets);
    take_outcomes();
  }
  void down(PacketBurst& packets) {
    if (packets.empty()) return;
    translate_down(worker_, packets);
    take_outcomes();
  }
  void to_local(PacketBurst& packets) {
    if (packets.empty()) return;
    local(worker_, packets);
    outside(packets);
  }

  void finish() {
    settle();
    while (finish_sealing()) settle();
  }
  // But for what is being sealed.
  // Errors made on the way out are about packets that were translated a moment ago: they go back the same way. Nothing
  // is answered about an error, so this ends.
  void settle() {
    flush_all();
    while (!errors_.empty() || !told_.empty()) {
      PacketBurst errors = errors_, told = told_, back;
      errors_.clear();
      told_.clear();
      up(told);
      for (Packet* error : errors) {
        if (is_ours(worker_, ip_destination(*error)))
          back.add(error);
        else
          outside(error);
      }
      down(back);
      flush_all();
    }
  }

  void take_outcomes() {
    PacketBurst to_us;
    for (const nat::Outcome& outcome : worker_.outcomes) {
      Packet* packet = outcome.packet;
      switch (outcome.action) {
        case nat::Action::to_outside:
          outside(packet);
          break;
        case nat::Action::to_inside:
          inside(packet);
          break;
        case nat::Action::drop:
          if (outcome.reason == DropReason::name_unknown)
            to_slow(worker_, packet, ToSlow::name_unknown, outcome.reason);
          else
            worker_.drop(packet, outcome.reason);
          break;
        case nat::Action::wait:
          packet->drop_reason = outcome.reason;  // what to answer if the wait is in vain
          to_slow(worker_, packet, ToSlow::name_wait, DropReason::name_wait_full);
          break;
        case nat::Action::handover:
          packet->rss_worker = outcome.worker;
          if (!worker_.out.handover[outcome.worker].add(packet)) worker_.drop(packet, DropReason::flow_handover_full);
          break;
        case nat::Action::not_ours:
          if (to_us.full()) to_local(to_us);
          to_us.add(packet);
          break;
      }
    }
    worker_.outcomes.clear();
    to_local(to_us);
  }

 private:
  void send(PacketBurst& packets) {
    if (packets.empty()) return;
    route(worker_, packets, errors_);
    output(worker_, packets, errors_);
  }
  void flush_outside() {
    PacketBurst packets = outside_;
    outside_.clear();
    send(packets);
  }
  // False: there was nothing.
  bool finish_sealing() {
    return deferred_ != nullptr && finish_sealing(deferred_->latest);
  }
  bool finish_sealing(unsigned which) {
    Sealing& sealing = deferred_->sealings[which];
    if (sealing.count == 0) return false;
    deferred_->offers.wait(kSealing + which);
    PacketBurst packets;
    end_encap(worker_, sealing, packets);
    sealing.count = 0;
    send(packets);
    return true;
  }
  void begin_sealing(PacketBurst& packets) {
    const unsigned before = deferred_->latest, next = 1 - before;
    Sealing& sealing = deferred_->sealings[next];
    begin_encap(worker_, packets, sealing);
    deferred_->offers.begin(kSealing + next, {sealing.jobs, sealing.count}, true);
    deferred_->latest = next;
    finish_sealing(before);
  }
  void flush_inside() {
    PacketBurst packets = inside_;
    inside_.clear();
    if (packets.empty()) return;
    bool too_long = false;
    for (const Packet* packet : packets) too_long = too_long || longer_than_peer_takes(*packet);
    if (too_long) [[unlikely]] {
      finish_sealing();
      return fit(packets);
    }
    if (deferred_ != nullptr) return begin_sealing(packets);
    encap(worker_, packets);
    send(packets);
  }
  [[nodiscard]] bool longer_than_peer_takes(const Packet& packet) const {
    return packet.length > kDefaultInnerMtu && packet.length > worker_.tunnels->inner_mtu(packet.peer) &&
           !has_flag(packet, packet_flag::own);  // an answer to a probe that asks just this
  }
  void fit(PacketBurst& packets) {
    thread_local std::vector<Packet*> pieces;  // keeps its memory
    pieces.clear();
    for (Packet* packet : packets) {
      if (!longer_than_peer_takes(*packet)) {
        pieces.push_back(packet);
        continue;
      }
      Packet* error = fit_to_peer(worker_, packet, worker_.tunnels->inner_mtu(packet->peer), pieces);
      if (error == nullptr) continue;
      if (told_.full())
        worker_.drop(error, DropReason::icmp_error_rate_limited);
      else
        told_.add(error);
    }
    PacketBurst fitting;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      fitting.add(pieces[i]);
      if (!fitting.full() && i + 1 < pieces.size()) continue;
      encap(worker_, fitting);
      send(fitting);
      fitting.clear();
    }
  }
  void flush_all() {
    flush_inside();
    flush_outside();
  }

  Worker& worker_;
  Deferred* const deferred_;
  PacketBurst outside_;  // to be routed
  PacketBurst inside_;   // to be sealed for packet->peer
  PacketBurst errors_;
  PacketBurst told_;  // errors as of peers, to be translated like what comes from them
};

// What does not come through the tunnel.
void take_others(Worker& worker, Classified& sorted, Call& call) {
  call.down(sorted.lan);
  call.to_local(sorted.local);
  if (!sorted.neighbour.empty()) {
    neighbour_input(worker, sorted.neighbour);
    call.outside(sorted.neighbour);
  }
}

}  // namespace

void process_rx(Worker& worker, PacketBurst& frames) {
  Call call(worker);
  Classified sorted;
  classify(worker, frames, sorted);
  if (!sorted.tunnel.empty()) {
    tunnel_input(worker, sorted.tunnel);
    if (!sorted.tunnel.empty()) decap(worker, sorted.tunnel);
    call.up(sorted.tunnel);
  }
  take_others(worker, sorted, call);
  call.finish();
}

struct Pipeline::State {
  struct Burst {
    Classified sorted;
    Opening opening;
  };

  State(Worker& its_worker, wireguard::AeadOffers& offers)
      : worker(its_worker), deferred{offers}, call(its_worker, &deferred) {}

  void complete(unsigned which) {
    Burst& burst = bursts[which];
    deferred.offers.wait(kOpening + which);
    if (burst.opening.count != 0) end_decap(worker, burst.opening, burst.sorted.tunnel);
    call.up(burst.sorted.tunnel);
    take_others(worker, burst.sorted, call);
    call.settle();
  }

  Worker& worker;
  Deferred deferred;
  Call call;
  std::array<Burst, 2> bursts;
  unsigned latest = 0;
  bool pending = false;  // the latest is not complete
};

Pipeline::Pipeline(Worker& worker, wireguard::AeadOffers& offers) : state_(std::make_unique<State>(worker, offers)) {}
Pipeline::~Pipeline() = default;

void Pipeline::take(PacketBurst& frames) {
  State& state = *state_;
  const unsigned next = 1 - state.latest;
  State::Burst& burst = state.bursts[next];
  burst.sorted.tunnel.clear();
  burst.sorted.lan.clear();
  burst.sorted.local.clear();
  burst.sorted.neighbour.clear();
  burst.opening.count = 0;
  classify(state.worker, frames, burst.sorted);
  if (!burst.sorted.tunnel.empty()) tunnel_input(state.worker, burst.sorted.tunnel);
  if (!burst.sorted.tunnel.empty()) begin_decap(state.worker, burst.sorted.tunnel, burst.opening);
  state.deferred.offers.begin(kOpening + next, {burst.opening.jobs, burst.opening.count}, false);
  if (state.pending) state.complete(state.latest);
  state.latest = next;
  state.pending = true;
}

void Pipeline::finish() {
  State& state = *state_;
  if (!state.pending) return;
  state.complete(state.latest);
  state.pending = false;
  state.call.finish();
}

void process_exception(Worker& worker, PacketBurst& frames) {
  Call call(worker);
  from_kernel(worker, frames);
  call.outside(frames);
  call.finish();
}

void process_handover(Worker& worker, PacketBurst& packets) {
  Call call(worker);
  PacketBurst up, down;
  for (Packet* packet : packets) (has_flag(*packet, packet_flag::from_tunnel) ? up : down).add(packet);
  call.up(up);
  call.down(down);
  call.finish();
  packets.clear();
}

static void take_resend_order(Worker& worker, Packet* packet) {
  ResendOrder order;
  if (worker.resend != nullptr && packet->length == sizeof order) {
    std::memcpy(&order, packet->data, sizeof order);
    worker.resend->order(order, worker.now.monotonic);
  }
  worker.drop(packet, DropReason::local_consumed);
}

void process_injected(Worker& worker, PacketBurst& packets) {
  Call call(worker);
  PacketBurst from_peers, from_lan, frames;
  for (Packet* packet : packets) {
    switch (kind_of<ToWorker>(*packet)) {
      case ToWorker::frame:
        if (!worker.out.tx[packet->port].add(packet)) worker.drop(packet, DropReason::tx_full);
        break;
      case ToWorker::datagram:
        if (const DropReason reason = push_outer(*worker.configuration, *packet, 0); reason != DropReason::none)
          worker.drop(packet, reason);
        else
          call.outside(packet);
        break;
      case ToWorker::to_peer:
        call.inside(packet);
        break;
      case ToWorker::to_peer_on_path:
        set_flag(*packet, packet_flag::on_path);
        call.inside(packet);
        break;
      case ToWorker::forward:
        call.outside(packet);
        break;
      case ToWorker::from_lan:
        if (is_ours(worker, ip_destination(*packet)))
          from_lan.add(packet);
        else
          call.outside(packet);
        break;
      case ToWorker::from_peer:
        from_peers.add(packet);
        break;
      case ToWorker::kernel:
        frames.add(packet);
        break;
      case ToWorker::resend:
        take_resend_order(worker, packet);
        break;
    }
  }
  packets.clear();
  call.up(from_peers);
  call.down(from_lan);
  if (!frames.empty()) {
    from_kernel(worker, frames);
    call.outside(frames);
  }
  call.finish();
}

// A bounded look per loop: a peer that is gone gives its flows back soon, and no loop takes long because of it.
static void end_orphaned_flows(Worker& worker) {
  constexpr std::uint32_t kSlotsPerLoop = 512;
  const std::uint32_t removals = worker.policies->removals();
  const bool restart = removals != worker.removals_seen;
  if (!restart && !worker.orphans_left) return;
  worker.removals_seen = removals;
  worker.orphans_left = !worker.translator->end_orphans(worker.policies->view(), restart, kSlotsPerLoop);
}

// A burst per loop at most, so that what is sent again does not hold up what is new.
static void send_again(Worker& worker) {
  Call call(worker);
  ResendStore::Copy copy;
  for (std::size_t sent = 0; sent < kBurst && worker.resend->poll(worker.now.monotonic, copy); ++sent) {
    Packet* packet = worker.packets->allocate();
    if (packet == nullptr) break;
    if (!packet->append(static_cast<std::uint16_t>(copy.bytes.size()))) {
      worker.drop(packet, DropReason::no_buffer);
      continue;
    }
    std::memcpy(packet->data, copy.bytes.data(), copy.bytes.size());
    packet->peer = copy.peer;
    packet->outer = copy.to;
    if (const DropReason reason = push_outer(*worker.configuration, *packet, 0); reason != DropReason::none) {
      worker.drop(packet, reason);
      continue;
    }
    ++worker.counters.resent_packets;
    worker.counters.resent_bytes += copy.bytes.size();
    call.outside(packet);
  }
  call.finish();
}

void end_of_loop(Worker& worker) {
  end_orphaned_flows(worker);
  if (worker.resend != nullptr && worker.resend->due(worker.now.monotonic)) send_again(worker);
  if (worker.now.monotonic < worker.translator->poll_timeout()) return;
  Call call(worker);
  worker.translator->handle_timeout(worker.policies->view(), worker.now, worker.outcomes);
  call.take_outcomes();
  call.finish();
}

}  // namespace penstock::gateway
