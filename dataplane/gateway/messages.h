// What a packet means when it changes threads. The kind stands in `packet->user` while the packet is on a ring; both
// ends agree here. `packet->rss_worker` is the worker that sent it, or that must get it.
#pragma once

#include <cstdint>

#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

// Worker -> slow thread (Outputs::handshake and Outputs::slow).
enum class ToSlow : std::uint8_t {
  handshake,       // WireGuard types 1-3: data at the UDP payload, outer set
  admitted_handshake,  // the same, let in by a handshake thread
  note,            // no bytes: a wireguard::Note: bits in user bits 8-15, session index in bits 32-63, peer, `outer`
  stun,            // STUN on the tunnel port: data at the UDP payload, outer set
  control,         // in-tunnel control: data at the inner IPv6 header, peer and outer set
  outer_error,     // ICMP error about a tunnel datagram: data at the IP header of the error
  neighbour,       // ARP or ND: data at the ARP or IPv6 header, port set, outer.remote unused
  neighbour_wait,  // IP packet whose next hop is not resolved: data at the IP header
  session_wait,    // inner packet for `peer`, which has no session: data at the inner IP header
  name_wait,       // inner packet of `peer` whose name is being resolved: data at the inner IP header
  spoke_first,     // no bytes: data went to `peer` after a pause; does it hear us?
  name_unknown,    // inner packet of `peer` refused because no name has its proxy address: the control process may know
};

// Slow thread -> worker (process_injected).
enum class ToWorker : std::uint8_t {
  frame,            // complete frame for `port`
  datagram,         // UDP payload to be sent from the tunnel's port over `outer`
  to_peer,          // inner IP packet (empty: keepalive) for `peer`, to its endpoint
  to_peer_on_path,  // the same, to `outer.remote`
  forward,          // IP packet to be routed (its neighbour is known now)
  from_lan,         // IP packet to be treated like one received from the LAN (ICMP errors that must find their flow)
  from_peer,        // inner packet of `peer` to be judged again (its name is resolved now)
  resend,           // a ResendOrder (resend.h)
  kernel,           // frame that the host's kernel sent through the exception device
};

// Worker -> worker (process_handover): packet_flag::from_tunnel tells the direction.

template <typename Kind>
inline void set_kind(Packet& packet, Kind kind) {
  packet.user = static_cast<std::uint64_t>(kind);
}
template <typename Kind>
[[nodiscard]] inline Kind kind_of(const Packet& packet) {
  return static_cast<Kind>(packet.user & 0xff);
}

}  // namespace penstock::gateway
