// Every reason for which the stages drop a packet, provoked.
#include <gtest/gtest.h>

#include "tests/unit/gateway/strangers.h"

namespace penstock::gateway::test {
namespace {

struct Case {
  DropReason reason;
  std::function<void(World&)> provoke;
};

void lan(World& world, const Octets& packet) {
  world.gateway.receive_from(world.server, kLan, packet);
}
void wan(World& world, const Octets& frame) {
  world.gateway.receive(kWan, frame);
}
// A sealed inner packet, connected before.
void inner(World& world, const Octets& packet) {
  world.client.connect();
  world.client.send_datagram(world.client.address, world.client.seal(packet));
}

const Case kCases[] = {
    {DropReason::frame_too_short,
     [](World& w) {
       wan(w, {1, 2, 3});
     }},
    {DropReason::frame_too_short, [](World& w) { wan(w, ethernet(kAnybody, kWanMac, EtherType::vlan, {})); }},
    {DropReason::frame_not_for_us,
     [](World& w) {
       wan(w, ethernet(kAnybody, {2, 0, 0, 0, 9, 9}, EtherType::ipv4, {0x45}));
     }},
    {DropReason::ether_type_unknown, [](World& w) { wan(w, ethernet(kAnybody, kWanMac, EtherType::qinq, {1})); }},
    {DropReason::vlan_unexpected,
     [](World& w) { wan(w, frame(kAnybody, kWanMac, echo_request(kStranger.address, kTunnel.address), 7)); }},
    {DropReason::ip_malformed,
     [](World& w) {
       wan(w, frame(kAnybody, kWanMac, {0x45, 0, 0, 20}));
     }},
    {DropReason::ip_malformed, [](World& w) { wan(w, frame(kAnybody, kWanMac, {0x60})); }},
    {DropReason::ip_checksum_bad,
     [](World& w) { wan(w, frame(kAnybody, kWanMac, spoilt(echo_request(kStranger.address, kTunnel.address), 10))); }},
    {DropReason::ip_source_invalid,
     [](World& w) { wan(w, frame(kAnybody, kWanMac, echo_request(ip("127.0.0.1"), kTunnel.address))); }},
    {DropReason::ip_source_invalid,  // ours, from outside
     [](World& w) { wan(w, frame(kAnybody, kWanMac, echo_request(ip("203.0.113.1"), kTunnel.address))); }},
    {DropReason::ip_source_invalid,  // our own frame, come back
     [](World& w) { wan(w, frame(kWanMac, kWanMac, echo_request(kStranger.address, kTunnel.address))); }},
    {DropReason::ip_source_invalid,  // somebody claims our address
     [](World& w) {
       w.gateway.receive(kLan, ethernet(kAnybody, kLanMac, EtherType::arp,
                                        arp(true, ip("203.0.113.1"), kAnybody, ip("203.0.113.1"))));
     }},
    {DropReason::not_for_us,
     [](World& w) {
       lan(w, udp_packet({kServer4, 1}, {ip("203.0.113.99"), 2}, {}));
     }},
    {DropReason::not_for_us, [](World& w) { wan(w, frame(kAnybody, kWanMac, tcp_packet(kStranger, kTunnel, 2))); }},
    {DropReason::multicast_not_forwarded,
     [](World& w) {
       lan(w, udp_packet({kServer4, 1}, {ip("224.0.0.251"), 5353}, {}));
     }},
    {DropReason::multicast_not_forwarded,
     [](World& w) {
       lan(w, udp_packet({kServer4, 1}, {ip("255.255.255.255"), 67}, {}));
     }},
    {DropReason::outer_fragment,
     [](World& w) {
       IpOptions first;
       first.dont_fragment = false;
       first.more_fragments = true;
       wan(w, frame(kAnybody, kWanMac, udp_packet(kStranger, kTunnel, Octets(40, 4), first)));
     }},
    {DropReason::outer_fragment,
     [](World& w) {
       IpOptions later;
       later.dont_fragment = false;
       later.offset = 64;
       wan(w, frame(kAnybody, kWanMac, ip_packet(kStranger.address, kTunnel.address, 17, Octets(40, 4), later)));
     }},
    {DropReason::transport_malformed,  // UDP length beyond the packet
     [](World& w) { wan(w, spoilt(from_stranger(Octets(40, 9)), 14 + 20 + 4, 0x40)); }},
    {DropReason::transport_malformed,  // source port 0
     [](World& w) {
       wan(w, frame(kAnybody, kWanMac, udp_packet({kStranger.address, 0}, kTunnel, Octets(40, 4))));
     }},
    {DropReason::transport_malformed,  // ICMP of the other family
     [](World& w) {
       wan(w, frame(kAnybody, kWanMac, ip_packet(kStranger.address, kTunnel.address, 58, {128, 0})));
     }},
    {DropReason::udp_checksum_bad, [](World& w) { wan(w, spoilt(from_stranger(stun_request()), 14 + 20 + 8 + 10)); }},
    {DropReason::tunnel_port_unknown, [](World& w) { wan(w, from_stranger(text("hello"))); }},
    {DropReason::tunnel_port_unknown, [](World& w) { wan(w, from_stranger({})); }},
    {DropReason::tunnel_port_unknown,  // type 1 with something in the reserved bytes
     [](World& w) {
       wan(w, from_stranger(Octets{1, 0, 1, 0} + Octets(144, 0)));
     }},
    {DropReason::stun_malformed,  // length that is not the datagram's
     [](World& w) {
       wan(w, from_stranger(stun_request() + Octets{0, 0, 0, 0}));
     }},
    {DropReason::neighbour_malformed,
     [](World& w) {
       wan(w, ethernet(kAnybody, kWanMac, EtherType::arp, {0, 1}));
     }},
    {DropReason::neighbour_malformed,
     [](World& w) {
       lan(w, spoilt(discovery(135, kServer6, ip("2001:db8:1a::1"), ip("2001:db8:1a::1"), 0, {}), 7));  // hop limit
     }},
    {DropReason::local_consumed,
     [](World& w) {
       lan(w, icmp_packet(kServer6, ip("ff02::1"), icmp6::router_advertisement, 0, 0, 0, Octets(8, 0)));
     }},
    {DropReason::local_consumed,  // an ARP reply that nobody asked for
     [](World& w) {
       w.gateway.receive(kLan, ethernet(kAnybody, kLanMac, EtherType::arp,
                                        arp(false, ip("203.0.113.50"), kAnybody, ip("203.0.113.1"), kLanMac)));
       NeighbourView view;
       EXPECT_FALSE(w.gateway.neighbours.find(kLan, ip("203.0.113.50"), view));
     }},
    {DropReason::wg_length,
     [](World& w) {
       wan(w, from_stranger(Octets{1, 0, 0, 0} + Octets(143, 0)));
     }},
    {DropReason::wg_length,
     [](World& w) {
       wan(w, from_stranger(Octets{4, 0, 0, 0} + Octets(27, 0)));
     }},
    {DropReason::wg_mac1,
     [](World& w) {
       wan(w, from_stranger(Octets{1, 0, 0, 0} + Octets(144, 7)));
     }},
    {DropReason::wg_unknown_index,
     [](World& w) {
       wan(w, from_stranger(Octets{4, 0, 0, 0} + Octets(28, 7)));
     }},
    {DropReason::wg_replay,
     [](World& w) {
       w.client.connect();
       const Octets sealed = w.client.seal(echo_request(w.client.tunnel_v4, kServer4));
       w.client.send_datagram(w.client.address, sealed);
       w.client.send_datagram(kStranger, sealed);
     }},
    {DropReason::wg_authentication,
     [](World& w) {
       w.client.connect();
       w.client.send_datagram(w.client.address, spoilt(w.client.seal(echo_request(w.client.tunnel_v4, kServer4)), 40));
     }},
    {DropReason::wg_session_expired,
     [](World& w) {
       w.client.connect();
       Octets sealed = w.client.seal(echo_request(w.client.tunnel_v4, kServer4));
       for (std::size_t i = 8; i < 16; ++i) sealed[i] = 0xff;  // the counter
       w.client.send_datagram(w.client.address, sealed);
     }},
    {DropReason::wg_keepalive, [](World& w) { inner(w, {}); }},
    {DropReason::inner_malformed, [](World& w) { inner(w, text("no IP packet at all")); }},
    {DropReason::inner_malformed,  // claims more than there is
     [](World& w) { inner(w, spoilt(echo_request(w.client.tunnel_v4, kServer4), 2, 0x08)); }},
    {DropReason::inner_source_not_allowed, [](World& w) { inner(w, echo_request(ip("100.64.9.9"), kServer4)); }},
    {DropReason::inner_source_not_allowed,  // link-local, but not exactly control
     [](World& w) { inner(w, echo_request(ip("fe80::9"), kServer6)); }},
    {DropReason::ip_checksum_bad, [](World& w) { inner(w, spoilt(echo_request(w.client.tunnel_v4, kServer4), 10)); }},
    {DropReason::inner_congestion,
     [](World& w) {
       w.client.connect();
       w.client.send_datagram(w.client.address, w.client.seal(echo_request(w.client.tunnel_v4, kServer4)), 0, 3);
     }},
    {DropReason::policy_no_resource,
     [](World& w) {
       w.gateway.policies.publish(w.client.peer, nullptr);
       inner(w, echo_request(w.client.tunnel_v4, kServer4));
     }},
    {DropReason::control_not_allowed,
     [](World& w) {
       auto policy = w.client.policy();
       policy->control = false;
       w.gateway.publish(std::move(policy));
       inner(w, control_packet(3, {1}));
     }},
    {DropReason::control_malformed, [](World& w) { inner(w, control_packet(9, {1})); }},
    {DropReason::control_malformed,
     [](World& w) {
       inner(w, control_packet(1, {1, 0, 0}));
     }},
    {DropReason::control_malformed, [](World& w) { inner(w, spoilt(control_packet(3, {1}), 7)); }},  // hop limit
    {DropReason::control_malformed, [](World& w) { inner(w, spoilt(control_packet(3, {1}), 39, 3)); }},
    {DropReason::name_unknown,
     [](World& w) {
       auto policy = w.client.policy();
       policy->control = false;  // others may still send the name
       w.gateway.publish(std::move(policy));
       inner(w, echo_request(w.client.tunnel_v4, ip("100.96.200.200")));
     }},
    {DropReason::name_wait_timeout,
     [](World& w) {
       inner(w, echo_request(w.client.tunnel_v4, ip("100.96.200.200")));
       w.gateway.run(4s);
     }},
    {DropReason::icmp_type_unsupported,
     [](World& w) { wan(w, frame(kAnybody, kWanMac, icmp_packet(kStranger.address, kTunnel.address, 13, 0, 1, 1))); }},
    {DropReason::icmp_error_unmatched,
     [](World& w) {
       wan(w, frame(kAnybody, kWanMac,
                    icmp_packet(kStranger.address, kTunnel.address, 3, 1, 0, 0,
                                udp_packet({kTunnel.address, 1}, kStranger, {}))));
     }},
    {DropReason::neighbour_failed,
     [](World& w) {
       w.client.connect();
       for (int i = 0; i < 3; ++i) {
         w.client.send(udp_packet({w.client.tunnel_v4, 5}, {ip("203.0.113.200"), 53}, {}));
         w.gateway.run(4s);
       }
     }},
    {DropReason::no_buffer,
     [](World& w) {
       w.client.connect();
       w.gateway.packets.fail_after = 1;  // the received frame has one, the question for its neighbour does not
       w.client.send_datagram(w.client.address, w.client.seal(echo_request(w.client.tunnel_v4, kServer4)));
       w.gateway.packets.fail_after = -1;
     }},
    {DropReason::wg_no_endpoint,
     [](World& w) {
       // A datagram of a family that we have no address of.
       GatewayOptions options;
       options.description.ports[0].addresses.pop_back();
       options.description.routes.pop_back();
       Gateway four(options);
       EXPECT_EQ(four.slow->send_datagram({ip("2001:db8::1"), 1}, text("x"), four.now()), DropReason::wg_no_endpoint);
       Packet* packet = four.packets.with(text("x"));
       packet->outer.remote = {ip("2001:db8::1"), 1};
       set_kind(*packet, ToWorker::datagram);
       PacketBurst burst;
       burst.add(packet);
       process_injected(*four.workers[0], burst);
       EXPECT_EQ(four.drops(DropReason::wg_no_endpoint), 1U);
       EXPECT_EQ(four.workers[0]->out.dropped.size(), 1U);
       w.gateway.workers[0]->counters.drops[static_cast<std::size_t>(DropReason::wg_no_endpoint)] += 1;
     }},
};

TEST(Drops, EveryReasonCanBeProvoked) {
  for (std::size_t i = 0; i < std::size(kCases); ++i) {
    const Case& c = kCases[i];
    SCOPED_TRACE(std::string(name_of(c.reason)) + ", case " + std::to_string(i));
    World world;
    const std::uint64_t before = world.gateway.drops(c.reason);
    c.provoke(world);
    world.gateway.settle();
    EXPECT_GT(world.gateway.drops(c.reason), before);
  }
}

TEST(Drops, RingsThatAreFullLoseNothingUncounted) {
  World world;
  Worker& worker = *world.gateway.workers[0];
  // Fill the lists with what stands for packets of this loop, then let one more of each kind come.
  std::vector<Packet*> filler;
  const auto fill = [&](PacketList& list) {
    while (!list.full()) {
      filler.push_back(world.gateway.packets.allocate());
      list.add(filler.back());
    }
  };
  fill(worker.out.handshake);
  fill(worker.out.slow);
  fill(worker.out.tx[kWan]);
  fill(worker.out.tx[kLan]);
  PacketBurst burst;
  burst.add(world.gateway.packets.with(from_stranger(Octets{1, 0, 0, 0} + Octets(144, 7)), kWan));
  burst.add(world.gateway.packets.with(from_stranger(stun_request()), kWan));
  burst.add(world.gateway.packets.with(
      ethernet(kAnybody, kLanMac, EtherType::arp, arp(true, kServer4, kAnybody, ip("203.0.113.1"))), kLan));
  process_rx(worker, burst);
  EXPECT_EQ(worker.counters.drops[static_cast<std::size_t>(DropReason::handshake_ring_full)], 1U);
  EXPECT_EQ(worker.counters.drops[static_cast<std::size_t>(DropReason::slow_ring_full)], 2U);
  EXPECT_EQ(worker.counters.drops[static_cast<std::size_t>(DropReason::tx_full)], 1U);
  EXPECT_EQ(worker.out.dropped.size(), 4U);
  for (Packet* packet : worker.out.dropped) world.gateway.packets.release(packet);
  worker.out.dropped.clear();
  for (auto* list : {&worker.out.handshake, &worker.out.slow, &worker.out.tx[kWan], &worker.out.tx[kLan]})
    list->clear();
  for (Packet* packet : filler) world.gateway.packets.release(packet);
}

}  // namespace
}  // namespace penstock::gateway::test
