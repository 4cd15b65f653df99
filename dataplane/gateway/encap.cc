#include <bit>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/words.h"
#include "dataplane/core/wireguard/data_path.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/crypto_burst.h"
#include "dataplane/gateway/grouping.h"
#include "dataplane/gateway/resend.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

using wireguard::Session;

// The outer headers of one group, but for what differs from packet to packet: lengths, ECN, and the checksums over them.
struct OuterHeaders {
  DropReason reason = DropReason::none;  // why there are none
  bool six = false;
  bool device_checksums = false;  // Configuration's
  std::uint16_t size = 0;  // IP and UDP
  IpAddress source;
  IpAddress destination;
  alignas(8) std::uint8_t bytes[sizeof(Ipv6Header) + sizeof(UdpHeader)];
  ChecksumSum sum = 0;  // IPv4: of the header as it stands
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

// Our address towards `path.remote`: where the peer last reached us, if that is still ours, else the first of the family.
IpAddress source_towards(const Configuration& configuration, const Path& path) {
  const bool four = path.remote.address.is_v4();
  const IpAddress& wanted = path.local.address;
  const AddressSet::Entry* ours = configuration.ours.find(wanted);
  if (wanted.is_v4() == four && ours != nullptr && (ours->uses & address_use::tunnel) != 0) return wanted;
  return four ? configuration.tunnel_v4 : configuration.tunnel_v6;
}

void make_headers(const Configuration& configuration, const Path& path, OuterHeaders& out) {
  out.source = source_towards(configuration, path);
  out.destination = path.remote.address;
  if (out.source.is_unspecified() || path.remote.port == 0) {
    out.reason = DropReason::wg_no_endpoint;
    return;
  }
  out.reason = DropReason::none;
  out.six = out.destination.is_v6();
  out.device_checksums = configuration.device_checksums;
  std::uint8_t* at = out.bytes;
  if (out.six) {
    auto* ip = new (at) Ipv6Header{};
    ip->version_class_flow = be32::from_host(6U << 28);
    ip->next_header = ip_protocol::udp;
    ip->hop_limit = kOwnHopLimit;
    ip->source = out.source.bytes();
    ip->destination = out.destination.bytes();
    at += sizeof *ip;
  } else {
    auto* ip = new (at) Ipv4Header{};
    ip->version_ihl = 0x45;
    ip->flags_offset = be16::from_host(kIpv4DontFragment);  // protocol.md
    ip->ttl = kOwnHopLimit;
    ip->protocol = ip_protocol::udp;
    std::memcpy(ip->source.data(), out.source.wire().data(), 4);
    std::memcpy(ip->destination.data(), out.destination.wire().data(), 4);
    out.sum = words::header_sum(at);
    at += sizeof *ip;
  }
  auto* udp = new (at) UdpHeader{};
  udp->source_port = be16::from_host(configuration.tunnel.listen_port);
  udp->destination_port = be16::from_host(path.remote.port);
  out.size = static_cast<std::uint16_t>(at + sizeof *udp - out.bytes);
}

// Puts the headers in front of the message and fills in what is its own.
DropReason push_headers(const OuterHeaders& headers, Packet& packet, std::uint8_t ecn) {
  const auto udp_length = static_cast<std::uint16_t>(packet.length + sizeof(UdpHeader));
  if (!packet.push(headers.size)) return DropReason::no_headroom;
  std::uint8_t* at = packet.data;
  std::memcpy(at, headers.bytes, sizeof(Ipv4Header) + sizeof(UdpHeader));
  if (headers.six) {
    constexpr std::size_t kDone = sizeof(Ipv4Header) + sizeof(UdpHeader);
    std::memcpy(at + kDone, headers.bytes + kDone, sizeof headers.bytes - kDone);
    auto* ip = reinterpret_cast<Ipv6Header*>(at);
    ip->version_class_flow = be32::from_host(6U << 28 | std::uint32_t{ecn} << 20);
    ip->payload_length = be16::from_host(udp_length);
    auto* udp = reinterpret_cast<UdpHeader*>(at + sizeof *ip);
    udp->length = be16::from_host(udp_length);
    // RFC 8200 §8.1 wants a checksum; over IPv4 the message's own tag protects better than it would.
    const ChecksumSum pseudo =
        checksum_pseudo_header(headers.source, headers.destination, ip_protocol::udp, udp_length);
    if (headers.device_checksums) {
      words::store(reinterpret_cast<std::uint8_t*>(&udp->checksum), checksum_fold(pseudo));
    } else {
      udp->checksum = checksum_finish(checksum_add(pseudo, {at + sizeof *ip, udp_length}));
      if (udp->checksum == be16{}) udp->checksum = be16::from_host(0xffff);
    }
  } else {
    auto* ip = reinterpret_cast<Ipv4Header*>(at);
    ip->tos = ecn;
    ip->total_length = be16::from_host(packet.length);
    ip->checksum = checksum_finish(headers.sum + (std::uint32_t{ecn} << 8) + ip->total_length.raw());
    reinterpret_cast<UdpHeader*>(at + sizeof *ip)->length = be16::from_host(udp_length);
  }
  make_own(packet);
  if (headers.six) {
    set_flag(packet, packet_flag::ip6);
    if (headers.device_checksums) set_flag(packet, packet_flag::l4_checksum_ok);
  }
  packet.l4_offset = static_cast<std::uint16_t>(headers.size - sizeof(UdpHeader));
  packet.l4_protocol = ip_protocol::udp;
  return DropReason::none;
}

// The packets for one peer: one look at its session and endpoint, one reservation of counters, one set of headers.
void prepare_group(Worker& worker, const PacketBurst& packets, const std::uint8_t* order, unsigned n,
                   Sealing& sealing) {
  const PeerIndex peer = packets[order[0]]->peer;
  Session* session = worker.tunnels->sending_session(peer, worker.now.monotonic);
  const std::uint64_t counter =
      session == nullptr ? wireguard::kNoCounter : wireguard::DataPath::reserve_counters(*session, n);
  if (counter == wireguard::kNoCounter) {
    for (unsigned i = 0; i < n; ++i) wait_for_session(worker, packets[order[i]]);
    return;
  }
  const bool endpoint = worker.tunnels->has_endpoint(peer);
  const std::uint16_t mtu = worker.configuration->inner_mtu;
  const std::uint64_t keep = worker.resend != nullptr && worker.tunnels->keeps(peer) ? 1 : 0;
  std::uint64_t bytes = 0;
  std::uint32_t count = 0;
  bool data = false;
  for (unsigned i = 0; i < n; ++i) {
    Packet* packet = packets[order[i]];
    if (!endpoint && !has_flag(*packet, packet_flag::on_path)) {
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
    const std::size_t at = sealing.count++;
    sealing.ecn[at] = ecn_of(*packet);  // RFC 6040 §4.1, normal mode; the DSCP stays inside
    wireguard::prepare_seal(*session, counter + i, packet->data, packet->length, padded, sealing.jobs[at]);
    data = data || packet->length != 0;
    if (packet->length != 0 && !has_flag(*packet, packet_flag::on_path)) sealing.keep |= keep << at;
    packet->append(behind);
    packet->push(wireguard::kDataHeaderSize);
    bytes += packet->length;
    ++count;
    sealing.packets[at] = packet;
  }
  if (count == 0) return;
  sealing.peers[sealing.groups] = peer;
  sealing.ends[sealing.groups++] = static_cast<std::uint8_t>(sealing.count);
  worker.counters.encrypted_packets += count;
  worker.counters.encrypted_bytes += bytes;
  worker.tunnels->note_sent(worker.id + 1U, peer, count, bytes, data, worker.now.monotonic);
  if (const wireguard::NoteBits notes = worker.tunnels->send_notes(*session, worker.now.monotonic); notes != 0)
    send_note(worker, *session, notes, {});
}

// Sealed messages of one peer get their outer headers.
void wrap_group(Worker& worker, PeerIndex peer, Packet** packets, const std::uint8_t* ecn, unsigned n,
                PacketBurst& out) {
  OuterHeaders headers;
  const std::optional<Path> endpoint = worker.tunnels->endpoint(peer);
  if (endpoint) {
    make_headers(*worker.configuration, *endpoint, headers);
  } else {
    headers.reason = DropReason::wg_no_endpoint;
  }
  for (unsigned i = 0; i < n; ++i) {
    const DropReason reason = has_flag(*packets[i], packet_flag::on_path)
                                  ? push_outer(*worker.configuration, *packets[i], ecn[i])
                              : headers.reason != DropReason::none ? headers.reason
                                                                   : push_headers(headers, *packets[i], ecn[i]);
    if (reason != DropReason::none)
      worker.drop(packets[i], reason);
    else
      out.add(packets[i]);
  }
}

// Sealed messages that may have to be sent again. Only peers that have a ring come here.
void keep_copies(Worker& worker, Packet* const* packets, std::uint64_t which) {
  for (; which != 0; which &= which - 1) {
    const Packet& packet = *packets[std::countr_zero(which)];
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
  OuterHeaders headers;
  make_headers(configuration, packet.outer, headers);
  return headers.reason != DropReason::none ? headers.reason : push_headers(headers, packet, ecn);
}

void begin_encap(Worker& worker, PacketBurst& packets, Sealing& sealing) {
  worker.enter(Stage::encap, packets.size());
  sealing.count = sealing.groups = 0;
  sealing.keep = 0;
  std::uint32_t peers[kBurst];
  for (std::size_t i = 0; i < packets.size(); ++i) peers[i] = packets[i]->peer;
  Groups groups;
  group_by(peers, packets.size(), groups);
  if (groups.count > 1)  // the peers' own lines were asked for when the packets came here (graph.cc)
    for (unsigned g = 0; g < groups.count; ++g)
      worker.tunnels->prefetch_sending(peers[groups.order[groups.begin_of(g)]]);
  for (unsigned g = 0; g < groups.count; ++g) {
    const unsigned begin = groups.begin_of(g);
    prepare_group(worker, packets, groups.order.data() + begin, groups.end[g] - begin, sealing);
  }
  packets.clear();
}

void end_encap(Worker& worker, Sealing& sealing, PacketBurst& packets) {
  worker.enter(Stage::encap, 0);
  if (sealing.keep != 0) keep_copies(worker, sealing.packets, sealing.keep);
  unsigned begin = 0;
  for (unsigned g = 0; g < sealing.groups; ++g) {
    wrap_group(worker, sealing.peers[g], sealing.packets + begin, sealing.ecn + begin, sealing.ends[g] - begin,
               packets);
    begin = sealing.ends[g];
  }
}

void encap(Worker& worker, PacketBurst& packets) {
  Sealing sealing;
  begin_encap(worker, packets, sealing);
  if (sealing.count == 0) return;
  worker.aead->seal(sealing.work());
  end_encap(worker, sealing, packets);
}

}  // namespace penstock::gateway
