// Packets made here about a packet that does not go on: ICMP errors (RFC 792, 1812 §4.3.2, 4443 §2.4) and TCP resets
// (RFC 9293 §3.10.7.1). The caller limits their rate.
#pragma once

#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/packet/packet_source.h"

namespace penstock::nat {

// What is wrong, in the words of either family.
enum class IcmpProblem : std::uint8_t {
  none,
  no_route,              // 3/0, 1/0
  address_unreachable,   // 3/1, 1/3
  protocol_unreachable,  // 3/2, 4/1
  port_unreachable,      // 3/3, 1/4
  too_big,               // 3/4, 2/0; `value` is the MTU
  prohibited,            // 3/13, 1/1
  source_route_failed,   // 3/5, 1/0
  time_exceeded,         // 11/0, 3/0
  routing_header,        // IPv6: 4/0; `value` points at Segments Left. IPv4: 3/5
};

// What the sender of a packet of either family, dropped for `reason`, is told; none: nothing.
[[nodiscard]] IcmpProblem problem_of(DropReason reason, bool v6);

// False for packets about which no error may be sent: ICMP errors themselves, unknown ICMP types, later fragments,
// multicast or invalid sources, multicast destinations (RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)).
[[nodiscard]] bool may_be_answered(Bytes packet, const IpView& view);

// An error about `offending` (from its IP header, as its sender sent it), from `from` (of the same family) to its
// source. nullptr when there is no buffer. Precondition: may_be_answered().
[[nodiscard]] Packet* build_icmp_error(PacketSource& packets, Bytes offending, const IpView& view,
                                       const IpAddress& from, IcmpProblem problem, std::uint32_t value);

// A reset for `segment`, which belongs to no connection; seems to come from its destination. nullptr when there is no
// buffer, or `segment` is itself a reset or too short.
[[nodiscard]] Packet* build_tcp_reset(PacketSource& packets, Bytes segment, const IpView& view);

}  // namespace penstock::nat
