#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/stages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway {
namespace {

void refuse(Worker& worker, Packet* packet, Unreachable what, std::uint16_t mtu, DropReason reason,
            PacketBurst& errors) {
  if (!errors.full())
    if (Packet* error = icmp_error_about(worker, *packet, what, mtu); error != nullptr) errors.add(error);
  worker.drop(packet, reason);
}

bool may_be_fragmented(const Packet& packet) {
  if (is_ip6(packet)) return false;
  const auto* header = reinterpret_cast<const Ipv4Header*>(packet.data);
  return (header->flags_offset.host() & kIpv4DontFragment) == 0;
}

}  // namespace

void route(Worker& worker, PacketBurst& packets, PacketBurst& errors) {
  worker.enter(Stage::route, packets.size());
  const Configuration& configuration = *worker.configuration;
  IpAddress last;  // a burst is full of runs
  const Route* found = nullptr;
  std::size_t kept = 0;
  for (Packet* packet : packets) {
    const IpAddress destination = ip_destination(*packet);
    if (destination.is_v6() && (is_link_local(destination) || is_multicast(destination))) {
      packet->next_hop = 0;  // stays on the port it belongs to
      if (packet->port >= configuration.ports.size()) {
        worker.drop(packet, DropReason::no_route);
        continue;
      }
    } else {
      if (found == nullptr || destination != last) {
        found = configuration.routes.lookup(destination);
        last = destination;
      }
      if (found == nullptr) {
        refuse(worker, packet, Unreachable::net, 0, DropReason::no_route, errors);
        continue;
      }
      packet->port = found->port;
      packet->next_hop = static_cast<std::uint32_t>(found - configuration.routes.routes().data()) + 1;
    }
    packet->mtu_hint = configuration.ports[packet->port].mtu;
    if (packet->length > packet->mtu_hint && !may_be_fragmented(*packet)) {
      refuse(worker, packet, Unreachable::too_big, packet->mtu_hint, DropReason::too_big, errors);
      continue;
    }
    packets[kept++] = packet;
  }
  packets.truncate(kept);
}

}  // namespace penstock::gateway
