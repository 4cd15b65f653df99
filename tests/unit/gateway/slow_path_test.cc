// What keeps tunnels alive without the control process: STUN tick, probes, healing; and what goes to that process.
#include "dataplane/gateway/slow_path.h"

#include <gtest/gtest.h>

#include "dataplane/core/stun/message.h"
#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

const Endpoint kStunA{ip("198.51.100.20"), 3478};
const Endpoint kStunB{ip("198.51.100.21"), 3478};

// STUN servers on the WAN that see us at `mapped`.
struct StunServers final : Listener {
  explicit StunServers(Gateway& through) : Listener(through), gateway(through) {
    const Endpoint servers[] = {kStunA, kStunB};
    gateway.slow->set_stun_servers(servers, gateway.now());
    gateway.settle();
  }
  bool take(PortIndex, const Octets& packet) override {
    const IpParse parse = parse_ip(packet);
    if (parse.reason != DropReason::none || parse.view.protocol != ip_protocol::udp) return false;
    const auto* udp = view_as<UdpHeader>(Bytes{packet}.subspan(parse.view.header_length));
    const Endpoint to{ip_destination(packet, parse.view), udp->destination_port.host()};
    if (to != kStunA && to != kStunB) return false;
    asked.push_back(gateway.now().monotonic);
    const auto message = stun::Message::parse(Bytes{packet}.subspan(parse.view.header_length + 8));
    EXPECT_TRUE(message && message->is(stun::Class::request, stun::Method::binding));
    EXPECT_EQ(udp->source_port.host(), kDefaultListenPort) << "from the tunnel's own port";
    if (!message || mute) return true;
    std::array<std::uint8_t, 64> buffer;
    const Octets answer = copy(stun::build_binding_response(buffer, message->transaction_id(), mapped));
    gateway.receive(kWan,
                    frame(kRouterMac, kWanMac, udp_packet(to, {ip("198.51.100.194"), kDefaultListenPort}, answer)));
    return true;
  }
  Gateway& gateway;
  Endpoint mapped{ip("198.51.100.2"), 40000};
  bool mute = false;
  std::vector<Instant> asked;
};

Octets probe(std::uint64_t id, std::uint32_t switch_sequence, std::uint16_t path = 0) {
  wireguard::Probe out;
  out.id = id;
  out.path = path;
  out.switch_sequence = switch_sequence;
  out.sent_at = 123456789;
  const auto packet = wireguard::make_probe_packet(out, wireguard::ControlDirection::to_gateway);
  return {packet.begin(), packet.end()};
}

std::optional<wireguard::Probe> probe_reply(const Octets& inner) {
  const auto control = wireguard::parse_control(inner);
  if (!control || control->direction != wireguard::ControlDirection::to_client) return std::nullopt;
  const auto reply = wireguard::parse_probe(control->payload);
  return reply && reply->type == wireguard::ControlType::probe_reply ? reply : std::nullopt;
}

// Probes as a busy client does.
void be_busy(World& world, Duration time, std::uint32_t sequence = 0) {
  static std::uint64_t id = 1000;
  for (Duration passed{}; passed < time; passed += 200ms) {
    world.client.send(probe(++id, sequence));
    world.gateway.run(200ms);
  }
}

// --- Probes and path switches

TEST(Probes, AreAnsweredWhereTheyCameFrom) {
  World world;
  world.client.connect();
  const Endpoint standby{ip("198.51.100.20"), 49152};  // a relay
  world.client.more_addresses = {standby};
  world.client.send_from(standby, probe(7, 0, 3));
  ASSERT_EQ(world.client.received.size(), 1U);
  const auto reply = probe_reply(world.client.received[0]);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id, 7U);
  EXPECT_EQ(reply->path, 3);
  EXPECT_EQ(reply->sent_at, 123456789U);
  EXPECT_EQ(world.client.received_from[0], standby);
}

TEST(Probes, AHigherSwitchSequenceMovesTheEndpoint) {
  World world;
  world.client.connect();
  const Endpoint standby{ip("198.51.100.20"), 49152};
  world.client.more_addresses = {standby};
  const auto endpoint = [&] {
    world.client.received_from.clear();
    world.client.send_from(world.client.address, echo_request(world.client.tunnel_v4, kServer4));
    world.gateway.run(20ms);
    return world.client.received_from.empty() ? Endpoint{} : world.client.received_from.back();
  };
  EXPECT_EQ(endpoint(), world.client.address);
  world.client.send_from(standby, probe(1, 0));
  EXPECT_EQ(endpoint(), world.client.address) << "a probe alone moves nothing";
  const Octets move = world.client.seal(probe(2, 1));
  world.client.send_datagram(standby, move);
  EXPECT_EQ(endpoint(), standby);
  world.client.send_from(world.client.address, probe(3, 1));
  EXPECT_EQ(endpoint(), standby) << "the same sequence on another path moves nothing";
  world.client.send_from(world.client.address, probe(4, 2));
  EXPECT_EQ(endpoint(), world.client.address);
  world.client.send_datagram(standby, move);  // replayed
  EXPECT_EQ(endpoint(), world.client.address);
  EXPECT_EQ(world.gateway.drops(DropReason::wg_replay), 1U);
  EXPECT_FALSE(events_of<EndpointChanged>(world.gateway).empty());
}

TEST(Probes, ARestartedClientSwitchesFromTheBeginning) {
  World world;
  world.client.connect();
  world.client.send(probe(1, 5));
  Client again(world.gateway, {ip("198.51.100.131"), 4000}, 2);  // the same keys, nothing remembered
  ASSERT_EQ(again.peer, world.client.peer);
  world.gateway.run(1s);
  again.connect();
  again.send(probe(2, 1));
  again.send(echo_request(again.tunnel_v4, kServer4));
  world.gateway.run(50ms);
  EXPECT_EQ(again.received.size(), 2U);
}

// After every rekey, a probe of a path that is not the primary used to be taken for a restarted client's switch.
TEST(Probes, OfOtherPathsMoveNothingInANewSessionEither) {
  World world;
  world.client.connect();
  const Endpoint standby{ip("198.51.100.20"), 49152};
  world.client.more_addresses = {standby};
  world.client.send(probe(1, 5));
  world.gateway.run(6s);
  world.client.connect();
  world.client.send_from(standby, probe(2, 0));
  world.client.received_from.clear();
  world.client.send_from(world.client.address, echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(20ms);
  ASSERT_FALSE(world.client.received_from.empty());
  EXPECT_EQ(world.client.received_from.back(), world.client.address);
  // And a restarted client is recognised all the same.
  world.client.send_from(standby, probe(3, 1));
  world.client.received_from.clear();
  world.client.send_from(world.client.address, echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(20ms);
  ASSERT_FALSE(world.client.received_from.empty());
  EXPECT_EQ(world.client.received_from.back(), standby);
}

// --- The tick

TEST(StunTickInTheGateway, FollowsTheBusiestPeer) {
  World world;
  StunServers servers(world.gateway);
  world.client.connect();
  world.gateway.run(5s);
  be_busy(world, 2s);
  servers.asked.clear();
  be_busy(world, 3s);
  EXPECT_NEAR(static_cast<double>(servers.asked.size()), 20, 1);
  world.gateway.run(10s);
  servers.asked.clear();
  world.gateway.run(10s);
  EXPECT_LE(servers.asked.size(), 11U);
  world.gateway.run(200s);
  servers.asked.clear();
  world.gateway.run(100s);
  EXPECT_LE(servers.asked.size(), 5U);
  const auto mapped = events_of<MappedAddressChanged>(world.gateway);
  ASSERT_GE(mapped.size(), 2U);
  EXPECT_EQ(mapped[0].mapped, servers.mapped);
}

TEST(StunTickInTheGateway, SeesTrafficOfPeersThatDoNotProbe) {
  World world;
  StunServers servers(world.gateway);
  Client standard(world.gateway, {ip("198.51.100.140"), 5000}, 5, false);
  world.gateway.publish(standard.policy());
  standard.connect();
  world.gateway.run(5s);
  servers.asked.clear();
  for (int i = 0; i < 300; ++i) {
    standard.send(udp_packet({standard.tunnel_v4, 9}, {kServer4, 53}, {static_cast<std::uint8_t>(i)}));
    world.gateway.run(10ms);
  }
  EXPECT_GE(servers.asked.size(), 16U);
}

TEST(Healing, AChangedAddressIsShownToEveryKnownAddressOfEveryPeerBusyOnesFirst) {
  World world;
  StunServers servers(world.gateway);
  // A second client that is idle, known at two configured addresses as well.
  Client idle(world.gateway, {ip("198.51.100.150"), 6000}, 9);
  world.gateway.publish(idle.policy());
  idle.connect();
  wireguard::PeerConfig config;
  config.public_key = idle.device().public_key();
  config.path_switch = true;
  config.endpoints = {{ip("198.51.100.151"), 6001}, {ip("198.51.100.152"), 6002}};
  ASSERT_TRUE(world.gateway.slow->upsert_peer(config, world.gateway.now()));
  idle.more_addresses = config.endpoints;
  world.client.connect();
  const Endpoint relay{ip("198.51.100.20"), 49152};
  world.client.more_addresses = {relay};
  world.client.send_from(relay, probe(1, 0));
  world.gateway.run(130s);  // idle is idle
  be_busy(world, 2s);

  struct Keepalives final : Listener {
    using Listener::Listener;
    bool take(PortIndex, const Octets& packet) override {
      const IpParse parse = parse_ip(packet);
      if (packet.size() != 60 || parse.view.protocol != ip_protocol::udp) return false;
      const auto* udp = view_as<UdpHeader>(Bytes{packet}.subspan(parse.view.header_length));
      to.push_back({ip_destination(packet, parse.view), udp->destination_port.host()});
      return false;
    }
    std::vector<Endpoint> to;
  } seen(world.gateway);
  const std::vector<Endpoint>& order = seen.to;
  world.client.keepalives = idle.keepalives = 0;
  servers.mapped.port = 50000;
  const Instant before = world.gateway.now().monotonic;
  while (world.client.keepalives < 2 && world.gateway.now().monotonic - before < 2s) world.gateway.run(10ms);
  // paths.md: ≤ 300 ms + 4 RTT, of which the virtual network has none.
  EXPECT_LE(world.gateway.now().monotonic - before, 300ms);
  world.gateway.run(10ms);
  EXPECT_EQ(world.client.keepalives, 2U) << "direct and relayed";
  EXPECT_EQ(idle.keepalives, 3U) << "where it was heard, and where the control process says it may be";
  ASSERT_GE(order.size(), 5U);
  for (const Endpoint& first : {order[0], order[1]})
    EXPECT_TRUE(first == world.client.address || first == relay) << first.to_string();
}

// Mapping by mapping: nothing that the tick could see.
TEST(Healing, SilenceOfABusyPeerIsAnsweredWithKeepalives) {
  World world;
  world.client.connect();
  be_busy(world, 3s);
  world.client.keepalives = 0;
  world.gateway.run(280ms);  // the last probe was 200 ms ago
  EXPECT_EQ(world.client.keepalives, 0U);
  const Instant before = world.gateway.now().monotonic;
  while (world.client.keepalives == 0 && world.gateway.now().monotonic - before < 2s) world.gateway.run(10ms);
  EXPECT_LE(world.gateway.now().monotonic - before, 100ms);
  world.gateway.run(60s);
  EXPECT_LE(world.client.keepalives, 16U) << "it ends: the lid may have been closed";
}

TEST(Healing, AnIdlePeerIsLeftAlone) {
  World world;
  world.client.connect();
  for (int i = 0; i < 4; ++i) {
    world.client.send(probe(static_cast<std::uint64_t>(i), 0));
    world.gateway.run(25s);
  }
  const std::size_t before = world.client.keepalives;
  world.gateway.run(20s);
  EXPECT_LE(world.client.keepalives - before, 1U);
}

TEST(Healing, ErrorsAboutTheTunnelAreHintsWhenTheyQuoteALiveSession) {
  World world;
  world.client.connect();
  world.client.send(probe(1, 0));
  world.gateway.run(3s);
  world.client.keepalives = 0;
  const Octets latest = world.client.datagrams.back();
  const Endpoint another{ip("198.51.100.99"), 1};
  world.client.send_from(another, probe(2, 0));  // a standby path
  const auto error = [&](const Endpoint& about, const Octets& message) {
    const Octets quoted = udp_packet({ip("198.51.100.194"), kDefaultListenPort}, about, message);
    world.gateway.receive_from(
        world.router, kWan,
        icmp_packet(ip("198.51.100.193"), ip("198.51.100.194"), icmp4::unreachable, 1, 0, 0, quoted));
  };
  Octets stranger = latest;
  stranger[5] ^= 1;
  const Octets initiation(148, 1), punch(28, 0);
  struct Case {
    const char* what;
    Endpoint about;
    Octets message;
  };
  std::uint64_t unmatched = 0;
  for (const Case& c : {Case{"nobody", {ip("198.51.100.98"), 1}, latest},
                        Case{"an address of the client that is not in use", another, latest},
                        Case{"a punch", world.client.address, punch},
                        Case{"a handshake", world.client.address, initiation},
                        Case{"another session", world.client.address, stranger}}) {
    error(c.about, c.message);
    EXPECT_EQ(world.gateway.drops(DropReason::icmp_error_unmatched), ++unmatched) << c.what;
    EXPECT_EQ(world.client.keepalives, 0U) << c.what;
  }
  for (int i = 0; i < 50; ++i) error(world.client.address, latest);
  EXPECT_EQ(world.client.keepalives, 1U) << "a flood of errors makes no flood of keepalives";
  world.gateway.run(1s);
  error(world.client.address, {});  // RFC 792: eight bytes, the UDP header
  EXPECT_EQ(world.client.keepalives, 2U);
  world.client.send(echo_request(world.client.tunnel_v4, kServer4));
  world.gateway.run(20ms);
  EXPECT_EQ(world.client.received_from.back(), world.client.address) << "a hint, never proof";
}

// --- Control

TEST(Control, TravelsBothWays) {
  World world;
  world.client.connect();
  const Octets message = text("\x0a\x02hi");
  std::array<std::uint8_t, 40> header;
  wireguard::write_control_header(header, wireguard::ControlDirection::to_gateway,
                                  static_cast<std::uint16_t>(message.size() + 1));
  const Octets control = Octets(header.begin(), header.end()) + Octets{3} + message;
  world.client.send(control);
  ASSERT_EQ(world.gateway.punted.size(), 1U);
  EXPECT_EQ(world.gateway.punted[0].peer, world.client.peer);
  EXPECT_EQ(world.gateway.punted[0].outer.remote, world.client.address);
  EXPECT_EQ(world.gateway.punted[0].payload, message);
  EXPECT_EQ(world.gateway.slow->send_control(world.client.peer, message, world.gateway.now()), DropReason::none);
  world.gateway.settle();
  ASSERT_EQ(world.client.received.size(), 1U);
  const auto back = wireguard::parse_control(world.client.received[0]);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->direction, wireguard::ControlDirection::to_client);
  EXPECT_EQ(copy(back->payload.subspan(1)), message);
  // Limited per peer.
  for (int i = 0; i < 300; ++i) world.client.send(control);
  EXPECT_LE(world.gateway.punted.size(), 130U);
  EXPECT_GT(world.gateway.drops(DropReason::control_rate_limited), 100U);
}

TEST(Control, OnlyPeersWithTheRight) {
  World world;
  auto policy = world.client.policy();
  policy->control = false;
  world.gateway.publish(std::move(policy));
  world.client.connect();
  world.client.send(probe(1, 1));
  EXPECT_EQ(world.gateway.drops(DropReason::control_not_allowed), 1U);
  EXPECT_TRUE(world.client.received.empty());
  EXPECT_EQ(world.gateway.slow->send_control(world.client.peer, text("x"), world.gateway.now()),
            DropReason::control_not_allowed);
  EXPECT_EQ(world.gateway.slow->send_control(world.client.peer + 5, text("x"), world.gateway.now()),
            DropReason::control_not_allowed);
}

TEST(Control, OtherStunGoesToTheControlProcessAndItsDatagramsLeaveTheTunnelPort) {
  World world;
  std::array<std::uint8_t, 64> buffer;
  const Octets indication = copy(stun::build_binding_indication(buffer, stun::TransactionId{1}));
  world.client.send_datagram({ip("198.51.100.77"), 777}, indication);
  ASSERT_EQ(world.gateway.punted.size(), 1U);
  EXPECT_EQ(world.gateway.punted[0].peer, kNoPeer);
  EXPECT_EQ(world.gateway.punted[0].outer.remote, (Endpoint{ip("198.51.100.77"), 777}));
  EXPECT_EQ(world.gateway.punted[0].payload, indication);

  world.gateway.sent[kWan].clear();
  EXPECT_EQ(world.gateway.slow->send_datagram({ip("198.51.100.77"), 777}, indication, world.gateway.now()),
            DropReason::none);
  world.gateway.run(10ms);
  ASSERT_FALSE(world.gateway.sent[kWan].empty());
  const Octets& last = world.gateway.sent[kWan].back();
  EXPECT_EQ(Octets(last.begin() + 42, last.end()), indication);
  const struct {
    Endpoint to;
    std::size_t size;
  } refused[] = {{{ip("127.0.0.1"), 1}, 20},       {{ip("224.0.0.1"), 1}, 20},
                 {{ip("255.255.255.255"), 1}, 20}, {{ip("203.0.113.1"), 1}, 20},
                 {{ip("198.51.100.194"), 1}, 20},  {{ip("198.51.100.77"), 0}, 20},
                 {{ip("198.51.100.77"), 1}, 1201}, {{ip("::1"), 1}, 20},
                 {{ip("198.51.100.77"), 1}, 0}};
  for (const auto& c : refused)
    EXPECT_NE(world.gateway.slow->send_datagram(c.to, Octets(c.size, 1), world.gateway.now()), DropReason::none)
        << c.to.to_string();
}

}  // namespace
}  // namespace penstock::gateway::test
