#include "dataplane/core/base/address_words.h"
#include "dataplane/gateway/configuration.h"
#include "dataplane/gateway/recent.h"
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

// An IPv6 address that is link-local or a group.
bool stays_on_link(const AddressWords& destination) {
  const auto first = static_cast<std::uint8_t>(destination.high);
  const auto second = static_cast<std::uint8_t>(destination.high >> 8);
  return first == 0xff || (first == 0xfe && (second & 0xc0) == 0x80);
}

}  // namespace

void route(Worker& worker, PacketBurst& packets, PacketBurst& errors) {
  worker.enter(Stage::route, packets.size());
  const Configuration& configuration = *worker.configuration;
  const Route* const routes = configuration.routes.routes().data();
  Recent<const Route*> recent;  // IPv6 ones: those of IPv4 are found as fast as a wrong guess about this would take
  std::size_t kept = 0;
  for (Packet* packet : packets) {
    const bool six = is_ip6(*packet);
    const AddressWords destination =
        six ? AddressWords::of_v6(packet->data + 24) : AddressWords::of_v4(packet->data + 16);
    if (six && stays_on_link(destination)) {
      packet->next_hop = 0;  // stays on the port it belongs to
      if (packet->port >= configuration.ports.size()) {
        worker.drop(packet, DropReason::no_route);
        continue;
      }
    } else {
      const Route* found;
      if (!six) {
        found = configuration.routes.lookup_v4(packet->data + 16);
      } else if (const Route** known = recent.find(destination); known != nullptr) {
        found = *known;
      } else {
        found = recent.put(destination) = configuration.routes.lookup_v6(packet->data + 24);
      }
      if (found == nullptr) {
        refuse(worker, packet, Unreachable::net, 0, DropReason::no_route, errors);
        continue;
      }
      packet->port = found->port;
      packet->next_hop = static_cast<std::uint32_t>(found - routes) + 1;
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
