// The packet path as a whole: what a worker's loop calls with the bursts it has got, and where the stages are joined.
//
//     WAN rx → classify ─┬ WireGuard data ──→ decap → translate_up (policy, flow, NAT) → route → output → LAN tx
//                        ├ handshake, STUN, probes, in-tunnel control → slow thread (which punts what it does not keep)
//                        ├ ARP and ND → neighbour_input          ICMP to us → local          the rest → exception
//     LAN rx → classify → translate_down (flow, NAT back) → encap → route → output → WAN tx
//
// Same thread as the worker. A call takes every packet of its burst: each ends in exactly one list of `worker.out`.
// **Drain `worker.out` after each call** (lists are sized for what one burst can become), freeing `out.dropped`.
// `worker.now` must be current.
#pragma once

#include "dataplane/gateway/worker.h"

namespace penstock::gateway {

// Frames from ports; `packet->port` set, data at the Ethernet header.
void process_rx(Worker& worker, PacketBurst& frames);

// Frames that the host's kernel sent through the exception device; data at the Ethernet header.
void process_exception(Worker& worker, PacketBurst& frames);

// Packets from the slow thread; `kind_of<ToWorker>(packet)` says what each is (messages.h).
void process_injected(Worker& worker, PacketBurst& packets);

// Packets that another worker's rx got but whose flow is ours; data at the IP header.
void process_handover(Worker& worker, PacketBurst& packets);

// Once per loop, also without packets: lets flows age.
void end_of_loop(Worker& worker);

}  // namespace penstock::gateway
