#include "dataplane/gateway/icmp_error.h"

#include <algorithm>

#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

constexpr std::size_t kMaximumV4 = 576;   // RFC 1812 §4.3.2.3
constexpr std::size_t kMaximumV6 = 1280;  // RFC 4443 §2.4 (c)

}  // namespace

bool may_answer_with_error(const Packet& packet) {
  if (has_flag(packet, packet_flag::own) || has_flag(packet, packet_flag::later_fragment)) return false;
  const IpAddress source = ip_source(packet);
  const IpAddress destination = ip_destination(packet);
  if (source_is_invalid(source) || is_multicast(destination)) return false;
  if (destination.is_v4() && destination.v4_value() == 0xffffffff) return false;
  const bool icmp = packet.l4_protocol == ip_protocol::icmp || packet.l4_protocol == ip_protocol::icmpv6;
  if (!icmp) return true;
  if (packet.length <= packet.l4_offset) return false;
  const std::uint8_t type = packet.data[packet.l4_offset];
  if (packet.l4_protocol == ip_protocol::icmpv6) return type >= 128 && type != icmp6::redirect;
  return type == icmp4::echo || type == icmp4::echo_reply || type == icmp4::timestamp || type == icmp4::timestamp_reply;
}

bool build_icmp_error(const Configuration& configuration, const Packet& packet, Unreachable what, std::uint16_t mtu,
                      Packet& error) {
  const IpAddress to = ip_source(packet);
  PortIndex port = configuration.tunnel.port;
  if (const Route* way = configuration.routes.lookup(to); way != nullptr) port = way->port;
  const IpAddress from = configuration.source_for(port, to);
  if (from.is_unspecified()) return false;
  error.port = port;
  return build_icmp_error_from(from, packet, what, mtu, error);
}

bool build_icmp_error_from(const IpAddress& from, const Packet& packet, Unreachable what, std::uint16_t mtu,
                           Packet& error) {
  const IpAddress to = ip_source(packet);
  const bool four = to.is_v4();
  const std::size_t room =
      (four ? kMaximumV4 - sizeof(Ipv4Header) : kMaximumV6 - sizeof(Ipv6Header)) - sizeof(IcmpHeader);
  const auto quoted = static_cast<std::uint16_t>(std::min<std::size_t>(packet.length, room));
  if (!error.append(static_cast<std::uint16_t>(sizeof(IcmpHeader) + quoted))) return false;
  std::memset(error.data, 0, sizeof(IcmpHeader));
  std::memcpy(error.data + sizeof(IcmpHeader), packet.data, quoted);
  auto* icmp = reinterpret_cast<IcmpHeader*>(error.data);
  if (four) {
    icmp->type = icmp4::unreachable;
    icmp->code = what == Unreachable::net ? 0 : what == Unreachable::host ? 1 : 4;
  } else {
    icmp->type = what == Unreachable::too_big ? icmp6::packet_too_big : icmp6::unreachable;
    icmp->code = what == Unreachable::host ? 3 : 0;
  }
  if (what == Unreachable::too_big)
    icmp->field2 = be16::from_host(mtu);  // both families: the last two of the four bytes
  finish_icmp(error, 0, from, to);
  make_own(error);
  return push_ip(error, {from, to, four ? ip_protocol::icmp : ip_protocol::icmpv6});
}

Packet* icmp_error_about(Worker& worker, const Packet& packet, Unreachable what, std::uint16_t mtu) {
  if (!may_answer_with_error(packet) || !worker.error_limit.take(worker.now.monotonic)) return nullptr;
  Packet* error = worker.packets->allocate();
  if (error == nullptr) return nullptr;
  if (!build_icmp_error(*worker.configuration, packet, what, mtu, *error)) {
    worker.drop(error, DropReason::nat_no_source);
    return nullptr;
  }
  ++worker.counters.icmp_errors_sent;
  return error;
}

}  // namespace penstock::gateway
