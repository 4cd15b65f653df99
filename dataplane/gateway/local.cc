#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

// Turns an echo request round in its buffer. The checksum is adjusted, not made anew: a wrong one stays wrong.
void answer_echo(Packet& packet, std::uint8_t reply_type) {
  const IpAddress asker = ip_source(packet);
  const IpAddress us = ip_destination(packet);
  const std::uint8_t tos = is_ip6(packet) ? reinterpret_cast<const Ipv6Header*>(packet.data)->traffic_class()
                                          : reinterpret_cast<const Ipv4Header*>(packet.data)->tos;
  packet.pull(packet.l4_offset);  // options and extension headers are not returned (RFC 1122 §3.2.2.6 leaves it open)
  auto* icmp = reinterpret_cast<IcmpHeader*>(packet.data);
  std::uint8_t before[2] = {icmp->type, icmp->code};
  std::uint8_t after[2] = {reply_type, icmp->code};
  icmp->type = reply_type;
  // The pseudo-header's sum does not change when its two addresses change places.
  icmp->checksum = checksum_adjust(icmp->checksum, checksum_add(0, before), checksum_add(0, after));
  const std::uint8_t protocol = us.is_v4() ? ip_protocol::icmp : ip_protocol::icmpv6;
  make_own(packet);
  IpFields fields{us, asker, protocol};
  fields.tos = tos;
  fields.dont_fragment = false;
  push_ip(packet, fields);  // always fits where a header was
}

bool is_icmp_error(std::uint8_t protocol, std::uint8_t type) {
  if (protocol == ip_protocol::icmpv6) return type < 128;
  return type == icmp4::unreachable || type == icmp4::time_exceeded || type == icmp4::parameter_problem ||
         type == icmp4::source_quench;
}

// An error that quotes a datagram sent from the tunnel's port.
bool is_about_tunnel(const Configuration& configuration, Bytes quoted) {
  const IpParse parse = parse_ip(quoted, ParseMode::quoted);
  if (parse.reason != DropReason::none || parse.view.protocol != ip_protocol::udp || parse.view.later_fragment())
    return false;
  if (quoted.size() < std::size_t{parse.view.header_length} + sizeof(UdpHeader)) return false;
  const AddressSet::Entry* ours = configuration.ours.find(ip_source(quoted, parse.view));
  const auto* udp = view_as<UdpHeader>(quoted.subspan(parse.view.header_length));
  return ours != nullptr && (ours->uses & address_use::tunnel) != 0 &&
         udp->source_port.host() == configuration.tunnel.listen_port;
}

void input(Worker& worker, Packet* packet, PacketBurst& answers) {
  const bool icmp = packet->l4_protocol == ip_protocol::icmp || packet->l4_protocol == ip_protocol::icmpv6;
  if (!icmp) return to_kernel(worker, packet, DropReason::not_for_us);
  if (has_flag(*packet, packet_flag::fragment)) return to_kernel(worker, packet, DropReason::icmp_type_unsupported);
  if ((packet->l4_protocol == ip_protocol::icmpv6) != is_ip6(*packet) ||
      packet->length < packet->l4_offset + sizeof(IcmpHeader))
    return worker.drop(packet, DropReason::transport_malformed);
  const auto* header = reinterpret_cast<const IcmpHeader*>(packet->data + packet->l4_offset);
  if (header->code == 0 && header->type == (is_ip6(*packet) ? icmp6::echo : icmp4::echo)) {
    answer_echo(*packet, is_ip6(*packet) ? icmp6::echo_reply : icmp4::echo_reply);
    return answers.add(packet);
  }
  if (!is_icmp_error(packet->l4_protocol, header->type))
    return to_kernel(worker, packet, DropReason::icmp_type_unsupported);
  const Bytes message = Bytes{packet->bytes()}.subspan(packet->l4_offset);
  if (!is_about_tunnel(*worker.configuration, message.subspan(sizeof(IcmpHeader))))
    return to_kernel(worker, packet, DropReason::icmp_error_unmatched);
  if (!transport_checksum_ok(message, packet->l4_protocol, ip_source(*packet), ip_destination(*packet)))
    return worker.drop(packet, DropReason::transport_malformed);
  to_slow(worker, packet, ToSlow::outer_error, DropReason::slow_ring_full);
}

}  // namespace

void local(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::local, packets.size());
  PacketBurst answers;
  for (Packet* packet : packets) input(worker, packet, answers);
  packets = answers;
}

}  // namespace penstock::gateway
