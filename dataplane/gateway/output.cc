#include <vector>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/nat/fragments.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

void transmit(Worker& worker, Packet* packet, const MacAddress& to) {
  const PortIndex port = packet->port;
  const EtherType type = is_ip6(*packet) ? EtherType::ipv6 : EtherType::ipv4;
  if (!push_ethernet(*packet, worker.configuration->ports[port], to, type))
    return worker.drop(packet, DropReason::no_headroom);
  if (!worker.out.tx[port].add(packet)) worker.drop(packet, DropReason::tx_full);
}

// RFC 791 §3.2: an IPv4 packet without DF that is larger than the port's MTU leaves in pieces, first piece first, its
// options as their copied flags say. Translation fragments to the LAN's MTU by itself; this is for a port with a smaller
// one.
void transmit_fragments(Worker& worker, Packet* packet, const MacAddress& to) {
  thread_local std::vector<Packet*> pieces;  // keeps its memory
  pieces.clear();
  const PortIndex port = packet->port;
  const DropReason reason = nat::fragment_packet(*packet, packet->mtu_hint, 0, *worker.packets, pieces);
  for (Packet* piece : pieces) {
    if (reason != DropReason::none) {
      worker.drop(piece, reason);
      continue;
    }
    piece->port = port;
    transmit(worker, piece, to);
  }
  if (reason != DropReason::none) worker.drop(packet, reason);  // the rest would be of no use
}

void unreachable(Worker& worker, Packet* packet, PacketBurst& errors) {
  if (!errors.full())
    if (Packet* error = icmp_error_about(worker, *packet, Unreachable::host); error != nullptr) errors.add(error);
  worker.drop(packet, DropReason::neighbour_failed);
}

}  // namespace

void output(Worker& worker, PacketBurst& packets, PacketBurst& errors) {
  worker.enter(Stage::output, packets.size());
  const Configuration& configuration = *worker.configuration;
  const Route* const routes = configuration.routes.routes().data();
  NeighbourView neighbour;  // a burst is full of runs
  AddressWords last;
  bool found = false;
  for (Packet* packet : packets) {
    const bool six = is_ip6(*packet);
    const AddressWords destination = six ? AddressWords::of_v6(packet->data + 24) : AddressWords::of_v4(packet->data + 16);
    if (six && (destination.high & 0xff) == 0xff) {
      transmit(worker, packet, multicast_mac_of(destination.address()));
      continue;
    }
    const Route* route = packet->next_hop == 0 ? nullptr : routes + (packet->next_hop - 1);
    const AddressWords next_hop = route == nullptr || route->on_link() ? destination : AddressWords::of(route->via);
    if (!found || neighbour.port != packet->port || !(next_hop == last)) {
      found = worker.neighbours->find(packet->port, next_hop, neighbour);
      last = next_hop;
      if (found && neighbour.state == NeighbourState::stale) worker.neighbours->mark_used(neighbour.slot);
    }
    if (found && is_usable(neighbour.state) && packet->length <= packet->mtu_hint) [[likely]] {
      transmit(worker, packet, neighbour.mac);
    } else if (found && neighbour.state == NeighbourState::failed) {
      unreachable(worker, packet, errors);
    } else if (!found || !is_usable(neighbour.state)) {
      to_slow(worker, packet, ToSlow::neighbour_wait, DropReason::neighbour_wait_full);
    } else {
      transmit_fragments(worker, packet, neighbour.mac);
    }
  }
  packets.clear();
}

}  // namespace penstock::gateway
