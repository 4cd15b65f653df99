#include "dataplane/core/base/address_words.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/outer_path.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

enum class Kind : std::uint8_t { handshake, stun, wrong_length, unknown };

bool is_data(Bytes payload) {
  return wireguard::classify(payload) == wireguard::MessageType::data;
}

Kind kind_of_datagram(Bytes payload) {
  switch (wireguard::classify(payload)) {
    case wireguard::MessageType::data:  // told apart before
    case wireguard::MessageType::none:
      break;
    default:
      return Kind::handshake;
  }
  if (wireguard::looks_like_wireguard(payload)) return Kind::wrong_length;
  constexpr std::size_t kCookieOffset = 4;
  const bool cookie = payload.size() >= stun::kHeaderSize &&
                      reinterpret_cast<const be32*>(payload.data() + kCookieOffset)->host() == stun::kMagicCookie;
  return cookie ? Kind::stun : Kind::unknown;
}

// Everything but WireGuard data, `data` at the UDP header. STUN is told apart before the header goes, since only its
// checksum is looked at: what WireGuard sends authenticates itself.
void other_input(Worker& worker, Packet* packet) {
  packet->outer = outer_path(worker, packet->data, packet->l4_offset, is_ip6(*packet));
  const auto* udp = reinterpret_cast<const UdpHeader*>(packet->data);
  const Kind kind = kind_of_datagram(Bytes{packet->bytes()}.subspan(sizeof(UdpHeader)));
  if (kind == Kind::stun) {
    const IpAddress& remote = packet->outer.remote.address;
    const bool unchecked = remote.is_v4() && udp->checksum == be16{};
    if (!unchecked && !transport_checksum_ok(packet->bytes(), ip_protocol::udp, remote, packet->outer.local.address))
      return worker.drop(packet, DropReason::udp_checksum_bad);
  }
  packet->pull(sizeof(UdpHeader));
  switch (kind) {
    case Kind::handshake:
      set_kind(*packet, ToSlow::handshake);
      packet->rss_worker = worker.id;
      if (!worker.out.handshake.add(packet)) worker.drop(packet, DropReason::handshake_ring_full);
      return;
    case Kind::stun:
      if (!stun::looks_like_stun(packet->bytes())) return worker.drop(packet, DropReason::stun_malformed);
      return to_slow(worker, packet, ToSlow::stun, DropReason::slow_ring_full);
    case Kind::wrong_length:
      return worker.drop(packet, DropReason::wg_length);
    case Kind::unknown:
      return worker.drop(packet, DropReason::tunnel_port_unknown);
  }
}

// UDP header off. The outer headers stay where they are in front of a data message until it has been opened; whoever
// needs its path reads it there (outer_path).
inline void input(Worker& worker, Packet* packet, PacketBurst& data) {
  const std::uint8_t* ip = packet->data;
  const std::uint8_t ecn = is_ip6(*packet) ? (ip[1] >> 4) & 3 : ip[1] & 3;
  packet->pull(packet->l4_offset);
  const auto* udp = reinterpret_cast<const UdpHeader*>(packet->data);  // classify has seen that it is there
  const std::uint16_t length = udp->length.host();
  if (length < sizeof(UdpHeader) || length > packet->length || udp->source_port == be16{}) [[unlikely]]
    return worker.drop(packet, DropReason::transport_malformed);
  packet->truncate(length);
  if (!is_data(Bytes{packet->bytes()}.subspan(sizeof(UdpHeader)))) [[unlikely]]
    return other_input(worker, packet);
  packet->pull(sizeof(UdpHeader));
  packet->user = ecn;
  data.add(packet);
}

}  // namespace

Path outer_path(const Worker& worker, const std::uint8_t* udp, std::uint16_t header_length, bool six) {
  const std::uint8_t* ip = udp - header_length;
  const AddressWords remote = six ? AddressWords::of_v6(ip + 8) : AddressWords::of_v4(ip + 12);
  const AddressWords us = six ? AddressWords::of_v6(ip + 24) : AddressWords::of_v4(ip + 16);
  Path out;
  out.remote = {remote.address(), reinterpret_cast<const UdpHeader*>(udp)->source_port.host()};
  out.local = {us.address(), worker.configuration->tunnel.listen_port};
  return out;
}

void tunnel_input(Worker& worker, PacketBurst& packets) {
  worker.enter(Stage::tunnel_input, packets.size());
  PacketBurst data;
  for (Packet* packet : packets) input(worker, packet, data);
  packets = data;
}

}  // namespace penstock::gateway
