#include "dataplane/gateway/graph.h"

#include "dataplane/gateway/call.h"
#include "dataplane/gateway/policy_table.h"
#include "dataplane/gateway/resend.h"

namespace penstock::gateway {

void process_rx(Worker& worker, PacketBurst& frames) {
  Call call(worker);
  Classified sorted;
  classify(worker, frames, sorted);
  if (!sorted.tunnel.empty()) {
    tunnel_input(worker, sorted.tunnel);
    if (!sorted.tunnel.empty()) decap(worker, sorted.tunnel);
    call.up(sorted.tunnel);
  }
  call.others(sorted);
  call.finish();
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
