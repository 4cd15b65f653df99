// The way between us and a peer may carry less than the configured inner MTU; the peer says so in its probes. A packet
// that is longer leaves in pieces where IPv4 allows that. Otherwise its sender is told (RFC 1191, RFC 8201): by an
// error as the peer itself would have sent it, which goes the way of all that comes from the peer. So it is translated
// back like any other, and the flow knows from then on.
#include "dataplane/core/nat/fragments.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

Packet* error_as_of_peer(Worker& worker, const Packet& packet, std::uint16_t mtu) {
  if (!may_answer_with_error(packet) || !worker.error_limit.take(worker.now.monotonic)) return nullptr;
  Packet* error = worker.packets->allocate();
  if (error == nullptr) return nullptr;
  if (!build_icmp_error_from(ip_destination(packet), packet, Unreachable::too_big, mtu, *error)) {
    worker.drop(error, DropReason::no_headroom);
    return nullptr;
  }
  ++worker.counters.icmp_errors_sent;
  error->peer = packet.peer;
  error->flags = static_cast<std::uint8_t>(packet_flag::from_tunnel | (is_ip6(*error) ? packet_flag::ip6 : 0U));
  return error;
}

}  // namespace

Packet* fit_to_peer(Worker& worker, Packet* packet, std::uint16_t mtu, std::vector<Packet*>& pieces) {
  const PeerIndex peer = packet->peer;
  const bool on_path = has_flag(*packet, packet_flag::on_path);
  const IpParse parse = parse_ip(*packet);
  if (parse.reason != DropReason::none) {
    worker.drop(packet, parse.reason);
    return nullptr;
  }
  if (may_be_fragmented(*packet)) {
    const std::size_t before = pieces.size();
    const DropReason reason = nat::fragment_packet(*packet, mtu, 0, *worker.packets, pieces);
    if (reason == DropReason::none) {
      for (std::size_t i = before; i < pieces.size(); ++i) {
        pieces[i]->peer = peer;
        if (on_path) set_flag(*pieces[i], packet_flag::on_path);
      }
      return nullptr;
    }
    for (std::size_t i = before; i < pieces.size(); ++i) worker.drop(pieces[i], reason);
    pieces.resize(before);
    worker.drop(packet, reason);
    return nullptr;
  }
  Packet* error = error_as_of_peer(worker, *packet, mtu);
  worker.drop(packet, DropReason::too_big);
  return error;
}

}  // namespace penstock::gateway
