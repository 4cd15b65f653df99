// The packets of one call of the graph between the stages: what graph.cc and pipeline.cc are made of.
#pragma once

#include <array>
#include <vector>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/crypto_burst.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {

inline bool is_ours(const Worker& worker, const IpAddress& address) {
  return worker.configuration->ours.find(address) != nullptr || worker.configuration->is_routed_client(address);
}

// What is being sealed while its worker goes on: at most one burst between two calls.
struct Deferred {
  // Slots: two bursts being sealed and two being opened, so that one is begun before the one before is waited for.
  static constexpr unsigned kSealing = 0, kOpening = 2;
  static_assert(kOpening + 2 == wireguard::AeadOffers::kSlots);

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

  // What does not come through the tunnel.
  void others(Classified& sorted) {
    down(sorted.lan);
    to_local(sorted.local);
    if (sorted.neighbour.empty()) return;
    neighbour_input(worker_, sorted.neighbour);
    outside(sorted.neighbour);
  }

  void finish() {
    settle();
    while (finish_sealing()) settle();
  }
  // What may go now: all but what is being sealed. Errors made on the way out are about packets that were translated a
  // moment ago: they go back the same way. Nothing is answered about an error, so this ends.
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
    deferred_->offers.wait(Deferred::kSealing + which);
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
    deferred_->offers.begin(Deferred::kSealing + next, sealing.work(), true);
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

}  // namespace penstock::gateway
