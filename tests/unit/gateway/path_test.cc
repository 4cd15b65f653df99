// Whole packets through the whole gateway: client ↔ tunnel ↔ translation ↔ LAN.
#include <gtest/gtest.h>

#include <set>

#include "dataplane/gateway/stages.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

TEST(Path, PingThroughEveryTranslation) {
  World world;
  world.client.connect();
  const struct {
    const char* what;
    IpAddress to;
    IpAddress server;
    IpAddress seen_from;
  } cases[] = {
      {"NAT44 by address", kServer4, kServer4, ip("203.0.113.1")},
      {"NAT66 by address", kServer6, kServer6, ip("2001:db8:1a::1")},
      {"NAT44 by name", world.names.only_v4_as_v4, kServer4, ip("203.0.113.1")},
      {"NAT64 by name", world.names.only_v4_as_v6, kServer4, ip("203.0.113.1")},
      {"NAT46 by name", world.names.only_v6_as_v4, kServer6, ip("2001:db8:1a::1")},
      {"NAT66 by name", world.names.only_v6_as_v6, kServer6, ip("2001:db8:1a::1")},
  };
  std::uint16_t sequence = 1;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    world.server.received.clear();
    world.client.received.clear();
    const IpAddress& from = c.to.is_v4() ? world.client.tunnel_v4 : world.client.tunnel_v6;
    world.client.send(echo_request(from, c.to, 77, ++sequence, text(c.what)));
    world.gateway.run(50ms);
    ASSERT_EQ(world.server.received.size(), 1U);
    const Octets& there = world.server.received[0];
    const IpParse request = parse_ip(there);
    EXPECT_EQ(ip_source(there, request.view), c.seen_from);
    EXPECT_EQ(ip_destination(there, request.view), c.server);
    EXPECT_EQ(payload_of(there), text(c.what));
    ASSERT_EQ(world.client.received.size(), 1U);
    const Octets& back = world.client.received[0];
    const IpParse reply = parse_ip(back);
    EXPECT_EQ(ip_source(back, reply.view), c.to);
    EXPECT_EQ(ip_destination(back, reply.view), from);
    EXPECT_EQ(payload_of(back), text(c.what));
    const auto* icmp = view_as<IcmpHeader>(Bytes{back}.subspan(reply.view.header_length));
    EXPECT_EQ(icmp->field1.host(), 77);
    EXPECT_EQ(icmp->field2.host(), sequence);
  }
}

TEST(Path, OneArmedGatewayServesBothSides) {
  GatewayOptions options;
  options.description = one_armed();
  World world(options);
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, world.names.only_v6_as_v4));
  world.gateway.run(50ms);
  ASSERT_EQ(world.client.received.size(), 1U);
  EXPECT_EQ(world.server.received.size(), 1U);
}

TEST(Path, TunnelOverIpv6HasAnOuterChecksum) {
  World world({}, true);
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  ASSERT_EQ(world.client.received.size(), 1U);
  std::size_t checked = 0;
  for (const Octets& sent : world.gateway.sent[kWan]) {
    const Octets packet(sent.begin() + 14, sent.end());
    const IpParse parse = parse_ip(packet);
    if (packet[0] >> 4 != 6 || parse.view.protocol != ip_protocol::udp) continue;
    ++checked;
    const ChecksumSum sum =
        checksum_add(checksum_pseudo_header(ip_source(packet, parse.view), ip_destination(packet, parse.view),
                                            ip_protocol::udp, static_cast<std::uint32_t>(packet.size() - 40)),
                     Bytes{packet}.subspan(40));
    EXPECT_EQ(checksum_fold(sum), 0xffff);
  }
  EXPECT_GE(checked, 2U);
}

// Where devices fill checksums in, what they are given is the pseudo-header's sum and a mark; over IPv4 nothing changes.
TEST(Path, TunnelOverIpv6LeavesItsChecksumToTheDevice) {
  for (const bool six : {true, false}) {
    World world({}, six);
    world.gateway.configuration.device_checksums = true;
    world.client.connect();
    world.gateway.sent[kWan].clear();
    Packet* inner = world.gateway.packets.with(echo_request(kServer4, world.client.tunnel_v4));
    inner->peer = world.client.peer;
    PacketBurst burst;
    burst.add(inner);
    encap(*world.gateway.workers[0], burst);
    ASSERT_EQ(burst.size(), 1U);
    const Octets packet(burst[0]->data, burst[0]->data + burst[0]->length);
    EXPECT_EQ((burst[0]->flags & packet_flag::l4_checksum_ok) != 0, six);
    if (six) {
      const IpParse parse = parse_ip(packet);
      const ChecksumSum pseudo =
          checksum_pseudo_header(ip_source(packet, parse.view), ip_destination(packet, parse.view), ip_protocol::udp,
                                 static_cast<std::uint32_t>(packet.size() - 40));
      be16 field;
      std::memcpy(&field, packet.data() + 46, 2);
      EXPECT_EQ(field.raw(), checksum_fold(pseudo));
    }
    world.gateway.packets.release(burst[0]);
    world.gateway.configuration.device_checksums = false;
  }
}

TEST(Path, VlanPortsTagWhatLeaves) {
  GatewayOptions options;
  options.description.ports[1].vlan = 12;
  World world(options);
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  ASSERT_EQ(world.client.received.size(), 1U);
  for (const Octets& sent : world.gateway.sent[kLan]) {
    EXPECT_EQ(sent[12], 0x81);
    EXPECT_EQ(sent[15], 12);
  }
}

TEST(Path, OuterPacketsForbidFragmentation) {
  World world;
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  for (const Octets& sent : world.gateway.sent[kWan]) {
    if (sent[12] != 0x08 || sent[13] != 0x00) continue;
    EXPECT_EQ(sent[14 + 6] & 0x40, 0x40) << "DF";
  }
}

// RFC 6040: outer is what the network writes on, inner what the application sees.
TEST(Path, CongestionMarksTravelBothWays) {
  World world;
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  enum { kNot = 0, kEct1 = 1, kEct0 = 2, kCe = 3 };
  const struct {
    std::uint8_t outer, inner;
    int expected;  // -1: dropped
  } cases[] = {{kNot, kNot, kNot},    {kNot, kEct0, kEct0},  {kNot, kCe, kCe},  {kEct0, kNot, kNot},
               {kEct1, kEct0, kEct1}, {kEct0, kEct1, kEct1}, {kCe, kEct0, kCe}, {kCe, kEct1, kCe},
               {kCe, kCe, kCe},       {kCe, kNot, -1}};
  for (const auto& c : cases) {
    for (const bool six : {false, true}) {
      SCOPED_TRACE(testing::Message() << int{c.outer} << " over " << int{c.inner} << " six " << six);
      world.server.received.clear();
      IpOptions inner;
      inner.tos = static_cast<std::uint8_t>(0xb8 | c.inner);
      const Octets packet = six ? echo_request(world.client.tunnel_v6, kServer6, 7, 1, text("x"), inner)
                                : echo_request(world.client.tunnel_v4, kServer4, 7, 1, text("x"), inner);
      world.client.send_datagram(world.client.address, world.client.seal(packet), 0, c.outer);
      world.gateway.run(50ms);
      ASSERT_EQ(world.server.received.size(), c.expected < 0 ? 0U : 1U);
      if (c.expected < 0) continue;
      const IpParse parse = parse_ip(world.server.received[0]);
      EXPECT_EQ(parse.view.tos, 0xb8 | c.expected);  // trap: nat-20
    }
  }
  EXPECT_EQ(world.gateway.drops(DropReason::inner_congestion), 2U);
  // Down: the inner mark is copied to the outer header, the DSCP is not.
  world.gateway.sent[kWan].clear();
  IpOptions marked;
  marked.tos = 0xb8 | kCe;
  world.gateway.receive_from(world.server, kLan,
                             icmp_packet(kServer4, ip("203.0.113.1"), icmp4::echo_reply, 0, 7, 9, text("y"), marked));
  ASSERT_FALSE(world.gateway.sent[kWan].empty());
  EXPECT_EQ(world.gateway.sent[kWan].back()[14 + 1], kCe);
}

TEST(Path, PaddingNeverExceedsTheInnerMtu) {
  World world;
  world.client.connect();
  for (const std::size_t size : {1, 15, 16, 17, 1100, 1239, 1245, 1252}) {
    world.client.datagrams.clear();
    world.client.received.clear();
    world.client.send(echo_request(world.client.tunnel_v4, kServer4, 7, 1, Octets(size, 'p')));
    world.gateway.run(50ms);
    ASSERT_EQ(world.client.received.size(), 1U) << size;
    const std::size_t plain = world.client.datagrams.back().size() - 32;
    EXPECT_EQ(plain, std::min<std::size_t>((28 + size + 15) / 16 * 16, 1280));
  }
}

// trap: paths-1
TEST(Path, TwoPeersBehindOneAddressAndPortAreNotConfused) {
  World world;
  Client second(world.gateway, world.client.address, 3);
  world.gateway.publish(second.policy());
  // One after the other, as a NAT poor in ports would let them.
  world.client.connect();
  second.connect();
  world.server.received.clear();
  const Octets first = world.client.seal(echo_request(world.client.tunnel_v4, kServer4, 1, 1, text("first")));
  const Octets other = second.seal(echo_request(second.tunnel_v4, kServer4, 2, 1, text("second")));
  world.client.send_datagram(world.client.address, first);
  world.client.send_datagram(world.client.address, other);
  EXPECT_EQ(world.server.received.size(), 2U);
  EXPECT_EQ(world.gateway.drops(DropReason::inner_source_not_allowed), 0U);
  // Each may speak only for itself.
  world.client.send_datagram(world.client.address, second.seal(echo_request(world.client.tunnel_v4, kServer4)));
  EXPECT_EQ(world.gateway.drops(DropReason::inner_source_not_allowed), 1U);
}

TEST(Path, FlowsAreHandedToTheirOwner) {
  GatewayOptions options;
  options.workers = 2;
  World world(options);
  world.client.connect();
  for (std::uint16_t port = 3000; port < 3020; ++port) {
    for (const std::uint16_t worker : {std::uint16_t{0}, std::uint16_t{1}}) {  // the same flow seen by either worker
      const Octets udp = udp_packet({world.client.tunnel_v4, port}, {kServer4, 53}, text("q"));
      world.client.send_datagram(world.client.address, world.client.seal(udp), worker);
    }
  }
  world.gateway.run(50ms);
  ASSERT_EQ(world.server.received.size(), 40U);
  std::set<std::uint16_t> ports;
  for (const Octets& packet : world.server.received)
    ports.insert(view_as<UdpHeader>(Bytes{packet}.subspan(20))->source_port.host());
  EXPECT_EQ(ports.size(), 20U) << "one binding per flow, whichever worker saw its packets";
  // And back, through whichever worker the NIC chooses.
  for (const Octets& packet : std::vector<Octets>(world.server.received)) {
    const std::uint16_t to = view_as<UdpHeader>(Bytes{packet}.subspan(20))->source_port.host();
    for (const std::uint16_t worker : {std::uint16_t{0}, std::uint16_t{1}})
      world.gateway.receive_from(world.server, kLan, udp_packet({kServer4, 53}, {ip("203.0.113.1"), to}, text("a")),
                                 worker);
  }
  world.gateway.run(50ms);
  EXPECT_EQ(world.client.received.size(), 80U);
}

// trap: io-2
TEST(Path, OrderWithinAFlowIsKept) {
  World world;
  world.client.connect();
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  world.server.received.clear();
  std::vector<Octets> frames;
  for (std::uint16_t i = 0; i < kBurst; ++i) {
    const Octets inner = i % 3 == 0
                             ? tcp_packet({world.client.tunnel_v4, 9}, {kServer4, 80}, tcp_flag::syn)
                             : udp_packet({world.client.tunnel_v4, 5}, {kServer4, 53}, {static_cast<std::uint8_t>(i)});
    frames.push_back(frame(kRouterMac, kWanMac,
                           udp_packet(world.client.address, world.client.gateway_address, world.client.seal(inner))));
  }
  world.gateway.receive(kWan, frames);
  std::uint8_t last = 0;
  std::size_t seen = 0;
  for (const Octets& packet : world.server.received) {
    if (packet[9] != ip_protocol::udp) continue;
    EXPECT_GT(packet[28], last);
    last = packet[28];
    ++seen;
  }
  EXPECT_EQ(seen, 42U);
}

TEST(Path, FirstPacketWaitsForItsNeighbourAndADeadHostIsReported) {
  World world;
  world.client.connect();
  world.server.answers_neighbours = false;
  world.client.send(echo_request(world.client.tunnel_v4, world.names.only_v6_as_v4));
  world.gateway.run(100ms);
  EXPECT_EQ(world.gateway.slow->held(), 1U);
  world.gateway.run(5s);
  EXPECT_EQ(world.gateway.slow->held(), 0U);
  ASSERT_EQ(world.client.received.size(), 1U);
  // The error about the IPv6 packet on the LAN has become one about the client's IPv4 packet.
  const Octets& error = world.client.received[0];
  EXPECT_EQ(error[0] >> 4, 4);
  EXPECT_EQ(error[20], icmp4::unreachable);
  EXPECT_EQ(error[21], 1);
  const Bytes quoted = Bytes{error}.subspan(28);
  EXPECT_EQ(IpAddress::from_wire(quoted.subspan(12, 4)), world.client.tunnel_v4);
  EXPECT_EQ(IpAddress::from_wire(quoted.subspan(16, 4)), world.names.only_v6_as_v4);
}

TEST(Path, NoRouteIsReportedThroughTheTunnel) {
  GatewayOptions options;
  options.description.routes.clear();
  options.description.routes.push_back({*Prefix::parse("198.51.100.0/24"), ip("198.51.100.193"), kWan});
  World world(options);
  auto policy = world.client.policy();
  policy->authorisations[0].prefix = *Prefix::parse("192.0.2.0/24");
  world.gateway.publish(std::move(policy));
  world.client.connect();
  world.client.send(udp_packet({world.client.tunnel_v4, 9}, {ip("192.0.2.5"), 53}, text("q")));
  world.gateway.run(50ms);
  EXPECT_EQ(world.gateway.drops(DropReason::no_route), 1U);
  ASSERT_EQ(world.client.received.size(), 1U);
  EXPECT_EQ(world.client.received[0][20], icmp4::unreachable);
}

TEST(Path, TooBigForThePortIsFragmentedOrReported) {
  GatewayOptions options;
  options.description.inner_mtu = 1420;
  options.description.ports[1].mtu = 1280;  // the translator is told 1500: the port's own limit is the stages' business
  World world(options);
  world.client.connect();
  IpOptions may;
  may.dont_fragment = false;
  world.client.send(udp_packet({world.client.tunnel_v4, 9}, {kServer4, 53}, Octets(1370, 'x'), may));
  world.gateway.run(50ms);
  ASSERT_EQ(world.server.received.size(), 2U);
  EXPECT_EQ(carried_by(world.server.received, 1280), 1378U);
  world.client.send(udp_packet({world.client.tunnel_v4, 9}, {kServer4, 53}, Octets(1370, 'x')));
  world.gateway.run(50ms);
  ASSERT_EQ(world.client.received.size(), 1U);
  EXPECT_EQ(world.client.received[0][20], icmp4::unreachable);
  EXPECT_EQ(world.client.received[0][21], 4);
  EXPECT_EQ(view_as<IcmpHeader>(Bytes{world.client.received[0]}.subspan(20))->field2.host(), 1280);
}

TEST(Path, StandardPeersRoamPenstockPeersDoNot) {
  World world;
  Client standard(world.gateway, {ip("198.51.100.140"), 5000}, 5, false);
  world.gateway.publish(standard.policy());
  standard.connect();
  world.client.connect();
  const Endpoint standard_new{ip("198.51.100.141"), 5001}, client_new{ip("198.51.100.131"), 5002};
  standard.more_addresses = {standard_new};
  world.client.more_addresses = {client_new};
  standard.send_from(standard_new, echo_request(standard.tunnel_v4, kServer4));
  world.client.send_from(client_new, echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  standard.send_from(standard_new, echo_request(standard.tunnel_v4, kServer4, 7, 2));
  world.gateway.run(50ms);
  ASSERT_EQ(standard.received_from.size(), 2U);
  EXPECT_EQ(standard.received_from.back(), standard_new);
  ASSERT_EQ(world.client.received_from.size(), 1U);
  EXPECT_EQ(world.client.received_from[0], world.client.address);
}

}  // namespace
}  // namespace penstock::gateway::test
