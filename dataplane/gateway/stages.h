// The stages of the packet path, one file each, in the order a packet meets them. graph.cc joins them.
//
// A stage takes a burst, sends elsewhere (an output list, a drop, another burst it is given) what does not go on, and
// leaves in the burst, in order, what does. Same thread as the worker; no stage allocates from the heap or waits.
// A burst that a stage adds to must have room for as many packets as the stage is given.
#pragma once

#include <vector>

#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/icmp_error.h"
#include "dataplane/gateway/messages.h"
#include "dataplane/gateway/worker.h"

namespace penstock::gateway {

// What classify sorts frames into; data at the ARP or IP header, `port` where they came from.
struct Classified {
  PacketBurst tunnel;     // UDP to the tunnel's port
  PacketBurst lan;        // to one of our source addresses: may belong to a flow
  PacketBurst local;      // to us otherwise
  PacketBurst neighbour;  // ARP and ND
};

// Ethernet, VLAN and IP headers; decides whose a packet is.
void classify(Worker& worker, PacketBurst& frames, Classified& out);

// Tells tunnel datagrams apart by their first bytes; leaves WireGuard data messages, data at the message, `outer` set,
// the outer ECN in `user`.
void tunnel_input(Worker& worker, PacketBurst& packets);

// Session, replay, decryption, allowed source, ECN; leaves inner packets of known peers.
void decap(Worker& worker, PacketBurst& packets);

// Policy, flow, NAT of inner packets, and of packets from the LAN on their way back. Take the whole burst; what becomes
// of it is in worker.outcomes.
void translate_up(Worker& worker, PacketBurst& packets);
void translate_down(Worker& worker, PacketBurst& packets);

// Packets to ourselves: echo, errors about the tunnel's datagrams; leaves answers, to be routed.
void local(Worker& worker, PacketBurst& packets);

// ARP and ND: answers for our addresses, hands what there is to learn to the slow thread. Leaves answers whose asker's
// MAC address is still to be found, to be routed.
void neighbour_input(Worker& worker, PacketBurst& packets);

// For an inner packet that is longer than its peer's `mtu`: cut into `pieces` (the packet is the first of them), or
// gone; then perhaps an ICMP error that goes on like a packet from the peer, else nullptr.
Packet* fit_to_peer(Worker& worker, Packet* packet, std::uint16_t mtu, std::vector<Packet*>& pieces);

// Seals inner packets (empty ones too: keepalives) for packet->peer; leaves outer IP packets, to be routed.
void encap(Worker& worker, PacketBurst& packets);

// Way out and its MTU. `errors` gets ICMP errors about packets that cannot go on.
void route(Worker& worker, PacketBurst& packets, PacketBurst& errors);

// Next hop's MAC address, Ethernet header, transmit. Takes the whole burst.
void output(Worker& worker, PacketBurst& packets, PacketBurst& errors);

// A packet (data at the IP header) for the host's kernel; without exception path it is dropped with `reason`.
void to_kernel(Worker& worker, Packet* packet, DropReason reason);
// Frames from the kernel: ARP and ND are answered, IP packets are left, to be routed.
void from_kernel(Worker& worker, PacketBurst& frames);

// Puts UDP and IP headers of the tunnel's port in front of `packet`, towards packet->outer.remote, with DF
// (protocol.md).
DropReason push_outer(const Configuration& configuration, Packet& packet, std::uint8_t ecn);

// To the slow thread, or dropped with `reason` when its list is full.
void to_slow(Worker& worker, Packet* packet, ToSlow kind, DropReason reason);

// A wireguard::Note to the slow thread.
void send_note(Worker& worker, const wireguard::Session& session, wireguard::NoteBits bits, const Path& from);

// A copy of `packet` from data on, with its port, peer and outer; nullptr when there is no buffer.
Packet* copy_of(Worker& worker, const Packet& packet);

// An ICMP error about `packet` towards its source, or nullptr (none may be sent, limit reached, no buffer). `mtu` only
// for Packet Too Big. The caller still owns `packet`.
Packet* icmp_error_about(Worker& worker, const Packet& packet, Unreachable what, std::uint16_t mtu = 0);

}  // namespace penstock::gateway
