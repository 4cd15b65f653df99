#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/neighbour_table.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

// Whether we answer for `target` on `port`.
bool answered_here(const Configuration& configuration, PortIndex port, const IpAddress& target) {
  const AddressSet::Entry* entry = configuration.ours.find(target);
  if (entry == nullptr) return false;
  return entry->port == port || (entry->uses & address_use::any_port) != 0 ||
         target == link_local_of(configuration.ports[port].mac);  // ports may share a MAC address
}

// Whether the slow thread learns nothing from hearing of `address` at `mac`. What confirms reachability (`answer`) is
// news unless the entry is reachable already; what merely mentions the address is news only when it differs.
bool known(const Worker& worker, PortIndex port, const IpAddress& address, const MacAddress& mac, bool answer) {
  NeighbourView view;
  if (!worker.neighbours->find(port, address, view) || !is_usable(view.state) || view.mac != mac) return false;
  return !answer || view.state == NeighbourState::reachable;
}

void learn_from_copy(Worker& worker, const Packet& packet) {
  if (Packet* copy = copy_of(worker, packet); copy != nullptr)
    to_slow(worker, copy, ToSlow::neighbour, DropReason::slow_ring_full);
}

void send_frame(Worker& worker, Packet* packet, const MacAddress& to, EtherType type) {
  if (!push_ethernet(*packet, worker.configuration->ports[packet->port], to, type))
    return worker.drop(packet, DropReason::no_headroom);
  if (!worker.out.tx[packet->port].add(packet)) worker.drop(packet, DropReason::tx_full);
}

// RFC 826. A reply that nobody asked for teaches nothing.
void input_arp(Worker& worker, Packet* packet) {
  const auto arp = parse_arp(packet->bytes());
  if (!arp) return worker.drop(packet, DropReason::neighbour_malformed);
  const Configuration& configuration = *worker.configuration;
  if (configuration.ours.find(arp->sender) != nullptr) return worker.drop(packet, DropReason::ip_source_invalid);
  const bool for_us = answered_here(configuration, packet->port, arp->target);
  if (!arp->request || !for_us) {
    NeighbourView view;
    const bool asked = worker.neighbours->find(packet->port, arp->sender, view);
    if (!asked || known(worker, packet->port, arp->sender, arp->sender_mac, !arp->request))
      return worker.drop(packet, DropReason::local_consumed);
    return to_slow(worker, packet, ToSlow::neighbour, DropReason::slow_ring_full);
  }
  if (!arp->sender.is_unspecified() && !known(worker, packet->port, arp->sender, arp->sender_mac, false))
    learn_from_copy(worker, *packet);
  const MacAddress& our_mac = configuration.ports[packet->port].mac;
  write_arp(*packet, {false, arp->target, our_mac, arp->sender, arp->sender_mac});
  send_frame(worker, packet, arp->sender_mac, EtherType::arp);
}

// RFC 4861 §7.2.3, §7.2.4.
void input_discovery(Worker& worker, Packet* packet, PacketBurst& to_route) {
  const std::uint8_t type = packet->data[packet->l4_offset];
  if (type == icmp6::router_solicitation || type == icmp6::router_advertisement || type == icmp6::redirect)
    return worker.drop(packet, DropReason::local_consumed);  // routes come from the configuration
  const auto message = parse_neighbour_discovery(*packet);
  if (!message) return worker.drop(packet, DropReason::neighbour_malformed);
  const Configuration& configuration = *worker.configuration;
  if (configuration.ours.find(message->source) != nullptr) return worker.drop(packet, DropReason::ip_source_invalid);
  const PortIndex port = packet->port;
  if (message->advertisement) {
    NeighbourView view;
    const bool asked = worker.neighbours->find(port, message->target, view);
    const MacAddress& mac = message->link_layer ? *message->link_layer : view.mac;
    if (!asked || known(worker, port, message->target, mac, message->solicited))
      return worker.drop(packet, DropReason::local_consumed);
    return to_slow(worker, packet, ToSlow::neighbour, DropReason::slow_ring_full);
  }
  if (!answered_here(configuration, port, message->target)) return worker.drop(packet, DropReason::local_consumed);
  if (message->link_layer && !known(worker, port, message->source, *message->link_layer, false))
    learn_from_copy(worker, *packet);
  const bool detection = message->source.is_unspecified();
  if (!write_advertisement(*packet, message->target, message->source, configuration.ports[port].mac, !detection))
    return worker.drop(packet, DropReason::no_headroom);
  packet->port = port;
  if (message->link_layer) return send_frame(worker, packet, *message->link_layer, EtherType::ipv6);
  if (detection) return send_frame(worker, packet, multicast_mac_of(ip_destination(*packet)), EtherType::ipv6);
  to_route.add(packet);
}

}  // namespace

void neighbour_input(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::neighbour_input, packets.size());
  PacketBurst to_route;
  for (Packet* packet : packets) {
    if (is_ip6(*packet))
      input_discovery(worker, packet, to_route);
    else
      input_arp(worker, packet);
  }
  packets = to_route;
}

}  // namespace penstock::gateway
