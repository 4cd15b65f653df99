#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

// Our side of the exception device, as the kernel sees it: its own MAC address with the last bit turned.
PortConfiguration kernel_link(const Configuration& configuration) {
  PortConfiguration link;
  link.mac = configuration.exception.mac;
  link.mac[5] ^= 1;
  return link;
}

void send_to_kernel(Worker& worker, Packet* packet, EtherType type) {
  if (!push_ethernet(*packet, kernel_link(*worker.configuration), worker.configuration->exception.mac, type))
    return worker.drop(packet, DropReason::no_headroom);
  if (!worker.out.exception.add(packet)) worker.drop(packet, DropReason::exception_full);
}

// The kernel's route points at the device alone, so it asks for every destination; we are the next hop of all.
void answer_arp(Worker& worker, Packet* packet) {
  const auto question = parse_arp(packet->bytes());
  if (!question) return worker.drop(packet, DropReason::neighbour_malformed);
  const bool asks = question->request && !question->sender.is_unspecified() && question->sender != question->target;
  if (!asks) return worker.drop(packet, DropReason::local_consumed);
  write_arp(*packet,
            {false, question->target, kernel_link(*worker.configuration).mac, question->sender, question->sender_mac});
  send_to_kernel(worker, packet, EtherType::arp);
}

void answer_solicitation(Worker& worker, Packet* packet) {
  const auto question = parse_neighbour_discovery(*packet);
  if (!question) return worker.drop(packet, DropReason::neighbour_malformed);
  if (question->advertisement || question->source.is_unspecified())
    return worker.drop(packet, DropReason::local_consumed);
  if (!write_advertisement(*packet, question->target, question->source, kernel_link(*worker.configuration).mac, true))
    return worker.drop(packet, DropReason::no_headroom);
  send_to_kernel(worker, packet, EtherType::ipv6);
}

void input_ip(Worker& worker, Packet* packet, PacketBurst& to_route) {
  const IpParse parse = parse_ip(*packet);
  if (parse.reason != DropReason::none) return worker.drop(packet, parse.reason);
  if (packet->l4_protocol == ip_protocol::icmpv6 && packet->length > packet->l4_offset) {
    const std::uint8_t type = packet->data[packet->l4_offset];
    if (type == icmp6::neighbour_solicitation || type == icmp6::neighbour_advertisement)
      return answer_solicitation(worker, packet);
  }
  const IpAddress destination = ip_destination(*packet);
  if (is_multicast(destination) || is_link_local(destination) ||
      (destination.is_v4() && destination.v4_value() == 0xffffffff))
    return worker.drop(packet, DropReason::multicast_not_forwarded);
  // Nothing else than us is behind this device: the host is no router of other addresses through us.
  if (worker.configuration->ours.find(ip_source(*packet)) == nullptr)
    return worker.drop(packet, DropReason::ip_source_invalid);
  const std::uint8_t parsed = packet->flags;
  const std::uint16_t l4_offset = packet->l4_offset;
  const std::uint8_t l4_protocol = packet->l4_protocol;
  make_own(*packet);
  packet->flags = static_cast<std::uint8_t>(parsed | packet_flag::own);
  packet->l4_offset = l4_offset;
  packet->l4_protocol = l4_protocol;
  to_route.add(packet);
}

}  // namespace

void to_kernel(Worker& worker, Packet* packet, DropReason reason) {
  if (!worker.configuration->exception.enabled) return worker.drop(packet, reason);
  worker.enter(Stage::exception, 1);
  send_to_kernel(worker, packet, is_ip6(*packet) ? EtherType::ipv6 : EtherType::ipv4);
}

void from_kernel(Worker& worker, PacketBurst& frames) {
  worker.enter(Stage::exception, frames.size());
  PacketBurst to_route;
  for (Packet* packet : frames) {
    const auto* ethernet = view_as<EthernetHeader>(Bytes{packet->bytes()});
    if (ethernet == nullptr) {
      worker.drop(packet, DropReason::frame_too_short);
      continue;
    }
    const std::uint16_t type = ethernet->type.host();
    packet->pull(sizeof(EthernetHeader));
    if (type == static_cast<std::uint16_t>(EtherType::arp))
      answer_arp(worker, packet);
    else if (type == static_cast<std::uint16_t>(EtherType::ipv4) || type == static_cast<std::uint16_t>(EtherType::ipv6))
      input_ip(worker, packet, to_route);
    else
      worker.drop(packet, DropReason::ether_type_unknown);
  }
  frames = to_route;
}

}  // namespace penstock::gateway
