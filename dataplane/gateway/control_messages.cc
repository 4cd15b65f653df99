#include "dataplane/gateway/control_messages.h"

#include "dataplane/gateway/wire.h"

namespace penstock::gateway {

bool answer_probe(Packet& packet) {
  auto* probe = view_as<Probe>(packet.bytes().subspan(sizeof(Ipv6Header)));
  if (probe == nullptr || probe->type != static_cast<std::uint8_t>(ControlType::probe) ||
      probe->version != kProbeVersion)
    return false;
  packet.pull(sizeof(Ipv6Header));
  packet.truncate(sizeof(Probe));
  probe->type = static_cast<std::uint8_t>(ControlType::probe_reply);
  return push_control_header(packet);
}

bool push_control_header(Packet& packet) {
  const PeerIndex peer = packet.peer;
  make_own(packet);
  packet.peer = peer;
  return push_ip(packet, {IpAddress::v6(kControlGateway), IpAddress::v6(kControlClient), ip_protocol::experimental_253,
                          kControlHopLimit});
}

}  // namespace penstock::gateway
