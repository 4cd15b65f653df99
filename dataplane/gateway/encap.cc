#include <bit>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using wireguard::AeadJob;
using wireguard::Session;

struct Sealing {
  PacketBurst packets;
  std::uint8_t ecn[kBurst];
  AeadJob jobs[kBurst];
  std::uint64_t keep = 0;  // bit per packet: a copy goes into the ring (resend.h)
};

// What needs a session waits for it with the slow thread; a keepalive without one is of no use.
void wait_for_session(Worker& worker, Packet* packet) {
  if (packet->length == 0) return worker.drop(packet, DropReason::wg_no_session);
  to_slow(worker, packet, ToSlow::session_wait, DropReason::wg_queue_full);
}

std::uint8_t ecn_of(const Packet& packet) {
  if (packet.length == 0) return 0;
  return (packet.data[0] >> 4 == 6 ? packet.data[1] >> 4 : packet.data[1]) & 3;
}

// One run of packets for one peer: one look at its session and endpoint, one reservation of counters.
void prepare_run(Worker& worker, Packet** first, std::size_t n, Sealing& sealing) {
  const PeerIndex peer = first[0]->peer;
  Session* session = worker.tunnels->sending_session(peer, worker.now.monotonic);
  const std::uint64_t counter = session == nullptr
                                    ? wireguard::kNoCounter
                                    : wireguard::DataPath::reserve_counters(*session, static_cast<std::uint32_t>(n));
  if (counter == wireguard::kNoCounter) {
    for (std::size_t i = 0; i < n; ++i) wait_for_session(worker, first[i]);
    return;
  }
  const std::optional<Path> endpoint = worker.tunnels->endpoint(peer);
  const std::uint16_t mtu = worker.configuration->inner_mtu;
  const std::uint64_t keep = worker.resend != nullptr && worker.tunnels->keeps(peer) ? 1 : 0;
  std::uint64_t bytes = 0;
  std::uint32_t count = 0;
  bool data = false;
  for (std::size_t i = 0; i < n; ++i) {
    Packet* packet = first[i];
    const bool on_path = has_flag(*packet, packet_flag::on_path);
    if (!on_path && !endpoint) {
      worker.drop(packet, DropReason::wg_no_endpoint);
      continue;
    }
    if (packet->length > mtu) {  // the translator cuts or refuses what comes from the LAN; this is the last guard
      worker.drop(packet, DropReason::too_big);
      continue;
    }
    const auto padded = static_cast<std::uint16_t>(wireguard::padded_length(packet->length, mtu));
    const auto behind = static_cast<std::uint16_t>(padded - packet->length + wireguard::kAeadTagSize);
    if (packet->headroom < wireguard::kDataHeaderSize || packet->tailroom < behind) {
      worker.drop(packet, DropReason::no_headroom);
      continue;
    }
    if (!on_path) packet->outer = *endpoint;
    const std::size_t at = sealing.packets.size();
    sealing.ecn[at] = ecn_of(*packet);  // RFC 6040 §4.1, normal mode; the DSCP stays inside
    wireguard::prepare_seal(*session, counter + i, packet->data, packet->length, padded, sealing.jobs[at]);
    data = data || packet->length != 0;
    if (!on_path && packet->length != 0) sealing.keep |= keep << at;
    packet->append(behind);
    packet->push(wireguard::kDataHeaderSize);
    bytes += packet->length;
    ++count;
    sealing.packets.add(packet);
  }
  if (count == 0) return;
  worker.counters.encrypted_packets += count;
  worker.counters.encrypted_bytes += bytes;
  worker.tunnels->note_sent(worker.id + 1U, peer, count, bytes, data, worker.now.monotonic);
  if (const wireguard::NoteBits notes = worker.tunnels->send_notes(*session, worker.now.monotonic); notes != 0)
    send_note(worker, *session, notes, {});
}

// Sealed messages that may have to be sent again. Only peers that have a ring come here.
void keep_copies(Worker& worker, const PacketBurst& packets, std::uint64_t which) {
  for (; which != 0; which &= which - 1) {
    const Packet& packet = *packets[static_cast<std::size_t>(std::countr_zero(which))];
    switch (worker.resend->keep(packet.peer, packet.bytes(), worker.now.monotonic)) {
      case ResendStore::Kept::yes:
        break;
      case ResendStore::Kept::after_a_pause:
        if (Packet* note = worker.packets->allocate(); note != nullptr) {
          note->peer = packet.peer;
          to_slow(worker, note, ToSlow::spoke_first, DropReason::slow_ring_full);
        }
        break;
      case ResendStore::Kept::too_fast:
        worker.tunnels->set_keeps(packet.peer, false);
        continue;
    }
    ++worker.counters.kept_packets;
  }
}

}  // namespace

DropReason push_outer(const Configuration& configuration, Packet& packet, std::uint8_t ecn) {
  const Endpoint& remote = packet.outer.remote;
  const bool four = remote.address.is_v4();
  IpAddress source = packet.outer.local.address;
  const AddressSet::Entry* ours = configuration.ours.find(source);
  if (source.is_v4() != four || ours == nullptr || (ours->uses & address_use::tunnel) == 0)
    source = four ? configuration.tunnel_v4 : configuration.tunnel_v6;
  if (source.is_unspecified() || remote.port == 0) return DropReason::wg_no_endpoint;
  if (!packet.push(sizeof(UdpHeader))) return DropReason::no_headroom;
  auto* udp = reinterpret_cast<UdpHeader*>(packet.data);
  udp->source_port = be16::from_host(configuration.tunnel.listen_port);
  udp->destination_port = be16::from_host(remote.port);
  udp->length = be16::from_host(packet.length);
  udp->checksum = be16{};
  if (!four) {  // RFC 8200 §8.1 wants one; over IPv4 the message's own tag protects better than it would
    const ChecksumSum sum =
        checksum_add(checksum_pseudo_header(source, remote.address, ip_protocol::udp, packet.length), packet.bytes());
    udp->checksum = checksum_finish(sum);
    if (udp->checksum == be16{}) udp->checksum = be16::from_host(0xffff);
  }
  make_own(packet);
  IpFields fields{source, remote.address, ip_protocol::udp};
  fields.tos = ecn;
  return push_ip(packet, fields) ? DropReason::none : DropReason::no_headroom;
}

void encap(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::encap, packets.size());
  Sealing sealing;
  for (std::size_t first = 0; first < packets.size();) {
    std::size_t end = first + 1;
    while (end < packets.size() && packets[end]->peer == packets[first]->peer) ++end;
    prepare_run(worker, packets.data() + first, end - first, sealing);
    first = end;
  }
  packets.clear();
  if (sealing.packets.empty()) return;
  worker.aead->seal({sealing.jobs, sealing.packets.size()});
  if (sealing.keep != 0) keep_copies(worker, sealing.packets, sealing.keep);
  for (std::size_t i = 0; i < sealing.packets.size(); ++i) {
    Packet* packet = sealing.packets[i];
    if (const DropReason reason = push_outer(*worker.configuration, *packet, sealing.ecn[i]);
        reason != DropReason::none)
      worker.drop(packet, reason);
    else
      packets.add(packet);
  }
}

}  // namespace penstock::gateway
