#include <vector>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/nat/fragments.h"
#include "dataplane/core/packet/words.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/recent.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

// Fourteen bytes as two words.
void push_untagged(Packet& packet, const MacAddress& destination, const MacAddress& source, bool six) {
  const std::uint64_t first = words::load48(destination.data()), second = words::load48(source.data());
  constexpr std::uint64_t kFour = be16::from_host(static_cast<std::uint16_t>(EtherType::ipv4)).raw();
  constexpr std::uint64_t kSix = be16::from_host(static_cast<std::uint16_t>(EtherType::ipv6)).raw();
  const std::uint64_t head = first | second << 48;
  const std::uint64_t tail = second | (six ? kSix : kFour) << 48;
  words::store(packet.data, head);
  words::store(packet.data + sizeof(EthernetHeader) - sizeof tail, tail);
}

inline void transmit(Worker& worker, Packet* packet, const MacAddress& to) {
  const PortIndex port = packet->port;
  const PortConfiguration& way_out = worker.configuration->ports[port];
  if (way_out.vlan == 0 && packet->push(sizeof(EthernetHeader))) [[likely]] {
    push_untagged(*packet, to, way_out.mac, is_ip6(*packet));
    if (!worker.out.tx[port].add(packet)) worker.drop(packet, DropReason::tx_full);
    return;
  }
  const EtherType type = is_ip6(*packet) ? EtherType::ipv6 : EtherType::ipv4;
  if (!push_ethernet(*packet, worker.configuration->ports[port], to, type))
    return worker.drop(packet, DropReason::no_headroom);
  if (!worker.out.tx[port].add(packet)) worker.drop(packet, DropReason::tx_full);
}

// RFC 791 §3.2: an IPv4 packet without DF that is larger than the port's MTU leaves in pieces, first piece first, its
// options as their copied flags say. Translation fragments to the LAN's MTU by itself; this is for a port with a
// smaller one.
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
  struct Known {
    PortIndex port;
    bool found;
    NeighbourState state;
    MacAddress mac;
  };
  Recent<Known> recent;
  for (Packet* packet : packets) {
    const bool six = is_ip6(*packet);
    const AddressWords destination =
        six ? AddressWords::of_v6(packet->data + 24) : AddressWords::of_v4(packet->data + 16);
    if (six && (destination.high & 0xff) == 0xff) {
      transmit(worker, packet, multicast_mac_of(destination.address()));
      continue;
    }
    const Route* route = packet->next_hop == 0 ? nullptr : routes + (packet->next_hop - 1);
    const AddressWords next_hop = route == nullptr || route->on_link() ? destination : AddressWords::of(route->via);
    Known* known = recent.find(next_hop);
    if (known == nullptr || known->port != packet->port) {
      NeighbourView neighbour;
      const bool found = worker.neighbours->find(packet->port, next_hop, neighbour);
      if (found && neighbour.state == NeighbourState::stale) worker.neighbours->mark_used(neighbour.slot);
      known = &recent.put(next_hop);
      *known = {packet->port, found, neighbour.state, neighbour.mac};
    }
    if (known->found && is_usable(known->state) && packet->length <= packet->mtu_hint) [[likely]] {
      transmit(worker, packet, known->mac);
    } else if (known->found && known->state == NeighbourState::failed) {
      unreachable(worker, packet, errors);
    } else if (!known->found || !is_usable(known->state)) {
      to_slow(worker, packet, ToSlow::neighbour_wait, DropReason::neighbour_wait_full);
    } else {
      transmit_fragments(worker, packet, known->mac);
    }
  }
  packets.clear();
}

}  // namespace penstock::gateway
