#include "dataplane/core/base/address_words.h"
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

// RFC 791 §3.2: an IPv4 packet without DF that is larger than the port's MTU leaves in pieces, first piece first.
// Translation fragments to the LAN's MTU by itself; this is for a port with a smaller one.
void transmit_fragments(Worker& worker, Packet* packet, const MacAddress& to) {
  const Ipv4Header original = *reinterpret_cast<const Ipv4Header*>(packet->data);
  if (original.header_length() != sizeof(Ipv4Header)) return worker.drop(packet, DropReason::ip_options_refused);
  const auto step = static_cast<std::uint16_t>((packet->mtu_hint - sizeof(Ipv4Header)) & ~7U);
  const auto payload = static_cast<std::uint16_t>(packet->length - sizeof(Ipv4Header));
  const std::uint16_t flags = original.flags_offset.host();
  for (std::uint16_t at = 0; at < payload; at = static_cast<std::uint16_t>(at + step)) {
    Packet* piece = worker.packets->allocate();
    const bool last = payload - at <= step;
    const auto size = last ? static_cast<std::uint16_t>(payload - at) : step;
    const auto total = static_cast<std::uint16_t>(size + sizeof(Ipv4Header));
    if (piece == nullptr || !piece->append(total)) {
      if (piece != nullptr) worker.drop(piece, DropReason::no_buffer);
      return worker.drop(packet, DropReason::no_buffer);  // the rest would be of no use
    }
    std::memcpy(piece->data + sizeof(Ipv4Header), packet->data + sizeof(Ipv4Header) + at, size);
    auto* header = reinterpret_cast<Ipv4Header*>(piece->data);
    *header = original;
    header->total_length = be16::from_host(total);
    const auto offset = static_cast<std::uint16_t>((flags & kIpv4OffsetMask) + at / 8);
    const auto more = static_cast<std::uint16_t>(last ? flags & kIpv4MoreFragments : kIpv4MoreFragments);
    header->flags_offset = be16::from_host(static_cast<std::uint16_t>(more | offset));
    header->checksum = be16{};
    header->checksum = checksum_finish(checksum_add(0, {piece->data, sizeof(Ipv4Header)}));
    make_own(*piece);
    piece->port = packet->port;
    transmit(worker, piece, to);
  }
  worker.out.dropped.add(packet);  // not dropped: gone in pieces
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
