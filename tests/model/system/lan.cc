#include "tests/model/system/lan.h"

#include "dataplane/gateway/neighbour_messages.h"
#include "tests/model/system/gateway_host.h"
#include "tests/unit/gateway/builder.h"

namespace penstock::model {

namespace frames = gateway::test;

void Lan::answer_neighbour(GatewayHost& gateway, Bytes packet, bool arp) {
  if (arp) {
    const auto question = gateway::parse_arp(packet);
    if (!question || !question->request) return;
    for (const Server& server : servers)
      if (server.up && server.v4 == question->target)
        gateway.lan_frame(frames::ethernet(
            server.mac, gateway.lan_mac(), EtherType::arp,
            frames::arp(false, question->target, server.mac, question->sender, question->sender_mac)));
    return;
  }
  const IpAddress target = IpAddress::from_wire(packet.subspan(48, 16));
  const IpAddress source = ip_source(packet, parse_ip(packet).view);
  for (const Server& server : servers)
    if (server.up && server.v6 == target)
      gateway.lan_frame(frames::frame(
          server.mac, gateway.lan_mac(),
          frames::discovery(icmp6::neighbour_advertisement, target, source, target, 0x60,
                            frames::link_layer_option(2, server.mac))));
}

void Lan::receive(GatewayHost& gateway, Bytes frame, Instant now) {
  constexpr std::size_t kHeader = sizeof(EthernetHeader);
  const Bytes packet = frame.subspan(kHeader);
  if (view_as<EthernetHeader>(frame)->type.host() == static_cast<std::uint16_t>(EtherType::arp))
    return answer_neighbour(gateway, packet, true);
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none) return;
  if (parse.view.protocol == ip_protocol::icmpv6 && packet.size() >= 64 &&
      packet[parse.view.header_length] == icmp6::neighbour_solicitation)
    return answer_neighbour(gateway, packet, false);
  const auto app = parse_app_packet(packet);
  if (!app) return;
  for (const Server& server : servers) {
    if (!server.up || (server.v4 != app->to.address && server.v6 != app->to.address)) continue;
    if (!std::equal(server.mac.begin(), server.mac.end(), frame.begin())) continue;
    ledger_.arrives_at_server(server.id, app->what, now);
    seen_[app->what.flow] = {&gateway, app->from, app->to};
    AppPacket echo = app->what;
    echo.kind = AppKind::echo;
    gateway.lan_frame(
        frames::frame(server.mac, gateway.lan_mac(), make_app_packet(echo, app->to, app->from)));
    return;
  }
}

bool Lan::push(std::uint16_t flow, Instant now) {
  const auto known = seen_.find(flow);
  if (known == seen_.end()) return false;
  const Seen& seen = known->second;
  for (const Server& server : servers) {
    if (server.v4 != seen.to.address && server.v6 != seen.to.address) continue;
    const AppPacket what{AppKind::push, flow, server.id, ledger_.sends(flow, AppKind::push, now)};
    seen.gateway->lan_frame(
        frames::frame(server.mac, seen.gateway->lan_mac(), make_app_packet(what, seen.to, seen.from)));
    return true;
  }
  return false;
}

}  // namespace penstock::model
