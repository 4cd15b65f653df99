// Gateways that go and come, authorisations that end, and what must not get through.
#include "tests/unit/client/agent_fixture.h"

namespace penstock::client {
namespace {

TEST_F(Agent, AGatewayThatDoesNotAnswerIsNamedSoThatAnotherIsChosen) {
  connect();
  net.gw().deaf = true;
  net.on_request = [this](const v1::RequestConnection& request) {
    const auto& unreachable = request.unreachable_gateways();
    const bool first_is_bad = std::count(unreachable.begin(), unreachable.end(), "gw1") != 0;
    net.grant(request, net.gw(first_is_bad ? 1 : 0));
  };
  Duration waited{};
  for (int i = 0; net.gw(1).packets.empty() && i < 100; ++i) {  // an application that keeps trying
    net.send(datagram("203.0.113.80", "a"));
    net.advance(200ms);
    waited += 200ms;
  }
  EXPECT_FALSE(net.gw(1).packets.empty());
  EXPECT_LE(waited, 15s);
}

// paths.md's table: the gateway's host is lost, another one is in the site.
TEST_F(Agent, NewFlowsGoOverTheSecondGatewayWithinThreeSeconds) {
  connect();
  net.on_request = [this](const v1::RequestConnection& request) {
    const auto& unreachable = request.unreachable_gateways();
    net.grant(request, net.gw(std::count(unreachable.begin(), unreachable.end(), "gw1") != 0 ? 1 : 0));
  };
  const std::string name = net.resolve("web.corp.example");
  for (int i = 0; i < 100; ++i) {
    net.send(datagram(name.c_str(), "a"));
    net.advance(100ms);
  }
  net.gw().deaf = true;
  const Instant lost = net.now.monotonic;
  while (net.gw(1).packets.empty() && net.now.monotonic - lost < 10s) {
    net.send(datagram(name.c_str(), "b"));
    net.advance(50ms);
  }
  EXPECT_FALSE(net.gw(1).packets.empty());
  EXPECT_LE(net.now.monotonic - lost, 3s);
  EXPECT_EQ(net.requests.back().names_size(), 1) << "the name goes along";
  EXPECT_EQ(net.resolve("web.corp.example"), name) << "and keeps its proxy address";
  EXPECT_TRUE(net.icmp_errors().empty());
}

// The same gateway comes back: nobody notices but for the pause.
TEST_F(Agent, AGatewayThatReturnsIsGoneOnWithAsBefore) {
  connect();
  const std::string name = net.resolve("web.corp.example");
  for (int i = 0; i < 50; ++i) {
    net.send(datagram(name.c_str(), "a"));
    net.advance(100ms);
  }
  net.gw().deaf = true;
  net.advance(8s);
  net.gw().deaf = false;
  const std::size_t before = net.gw().packets.size();
  const Instant back = net.now.monotonic;
  while (net.gw().packets.size() == before && net.now.monotonic - back < 30s) {
    net.send(datagram(name.c_str(), "b"));
    net.advance(50ms);
  }
  EXPECT_LE(net.now.monotonic - back, 2s);
  EXPECT_EQ(net.resolve("web.corp.example"), name);
}

TEST_F(Agent, ATunnelThatNothingComesOutOfShowsNoPath) {
  connect();
  const std::string name = net.resolve("web.corp.example");
  const auto path_after = [&](Duration time) {
    for (const Instant until = net.now.monotonic + time; net.now.monotonic < until;) {
      net.send(datagram(name.c_str(), "a"));
      net.advance(50ms);
    }
    return net.agent->show_peers(8, net.now).peers(0).path();
  };
  EXPECT_EQ(path_after(2s), "direct");
  net.gw().deaf = true;
  EXPECT_EQ(path_after(4s), "none");
  net.gw().deaf = false;
  EXPECT_EQ(path_after(2s), "direct");
}

TEST_F(Agent, GoodbyeMovesTheClientAtOnce) {
  connect();
  net.on_request = [this](const v1::RequestConnection& request) {
    const auto& unreachable = request.unreachable_gateways();
    net.grant(request, net.gw(std::count(unreachable.begin(), unreachable.end(), "gw1") != 0 ? 1 : 0));
  };
  const std::string name = net.resolve("web.corp.example");
  net.send(datagram("203.0.113.80", "long ago"));
  net.advance(5min);
  std::size_t sent = 0;
  for (int i = 0; i < 50; ++i) {
    net.send(datagram(name.c_str(), "a"));
    ++sent;
    net.advance(100ms);
  }
  v1::Control goodbye;
  goodbye.mutable_goodbye()->set_reason("maintenance");
  net.gw().send_control(0, 77, false, goodbye, net.now);
  net.pump();
  for (int i = 0; i < 10; ++i) {
    net.send(datagram(name.c_str(), "b"));
    ++sent;
    net.advance(100ms);
  }
  EXPECT_FALSE(net.gw(1).packets.empty());
  EXPECT_EQ(net.gw().packets.size() + net.gw(1).packets.size(), sent + 1) << "nothing was lost on the way";
  net.send(datagram("203.0.113.80", "what was idle asks when it is wanted"));
  net.advance(3s);
  EXPECT_EQ(net.gw().packets.size() + net.gw(1).packets.size(), sent + 2);
  const v1::RequestConnection& last = net.requests.back();
  EXPECT_TRUE(std::count(last.connected_gateways().begin(), last.connected_gateways().end(), "gw2") == 1);
}

TEST_F(Agent, AnAuthorisationExpires) {  // trap: flow-13
  connect();
  net.lifetime = 600s;
  net.send(datagram("203.0.113.80", "a"));
  net.on_request = [this](const v1::RequestConnection& request) { net.refuse(request, v1::REFUSAL_REASON_FORBIDDEN); };
  net.advance(601s);
  net.send(datagram("203.0.113.80", "b"));
  EXPECT_EQ(net.gw().packets.size(), 1U);
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/13"});
}

TEST_F(Agent, AnAuthorisationInUseIsRenewedWithoutAPause) {  // trap: flow-1, flow-2, flow-14
  connect();
  net.lifetime = 600s;
  std::size_t sent = 0;
  for (int i = 0; i < 2000; ++i) {
    net.send(datagram("203.0.113.80", std::to_string(i)));
    ++sent;
    EXPECT_EQ(net.gw().packets.size(), sent) << i;
    net.advance(1s);
  }
  EXPECT_GE(net.requests.size(), 3U);
  EXPECT_LE(net.requests.size(), 6U);
}

TEST_F(Agent, RekeysLoseNothing) {
  connect();
  std::size_t sent = 0;
  for (int i = 0; i < 4000; ++i) {
    net.send(datagram("203.0.113.80", std::to_string(i)));
    net.gw().send(make_udp("203.0.113.80", kClient4, 7, 4000, std::to_string(i)), net.now);
    net.pump();
    ++sent;
    net.advance(100ms);
  }
  EXPECT_EQ(net.gw().packets.size(), sent);
  EXPECT_EQ(net.to_applications.size(), sent);
  EXPECT_GE(net.gw().initiations, 3);
  EXPECT_LE(net.gw().initiations, 6);
}

TEST_F(Agent, AnotherPresharedKeyIsTakenOver) {  // trap: paths-4
  connect();
  net.send(datagram("203.0.113.80", "a"));
  net.psk.bytes.fill(77);
  net.gw().restart();
  bool delivered = false;
  for (int i = 0; i < 300 && !delivered; ++i) {
    net.send(datagram("203.0.113.80", "b"));
    delivered = net.gw().packets.size() > 1;
    net.advance(200ms);
  }
  EXPECT_TRUE(delivered);
}

TEST_F(Agent, WhatComesOutOfATunnelIsChecked) {
  connect();
  const std::string name = net.resolve("web.corp.example");
  const std::string other = net.resolve("other.corp.example");
  net.send(datagram(name.c_str(), "a"));
  const auto arrives = [&](const std::vector<std::uint8_t>& packet) {
    const std::size_t before = net.to_applications.size();
    net.gw().send(packet, net.now);
    net.pump();
    return net.to_applications.size() > before;
  };
  EXPECT_TRUE(arrives(make_udp(name, kClient4, 7, 4000, "x")));
  EXPECT_TRUE(arrives(make_udp(other, kClient4, 7, 4000, "x")));            // the same Resource
  EXPECT_FALSE(arrives(make_udp("203.0.113.80", kClient4, 7, 4000, "x")));  // not authorised at this gateway
  EXPECT_FALSE(arrives(make_udp("192.0.2.1", kClient4, 7, 4000, "x")));     // nobody's
  EXPECT_FALSE(arrives(make_udp(name, "100.100.111.1", 7, 53, "x")));       // our resolver is not for the tunnel
  EXPECT_FALSE(arrives(make_udp(name, "100.64.0.3", 7, 4000, "x")));        // another client's address
  EXPECT_FALSE(arrives({0x45, 0, 0}));
  // An error that quotes a packet of ours may come from a router on the way; one that does not may not.
  const auto time_exceeded = [](const std::vector<std::uint8_t>& quoted) {
    std::vector<std::uint8_t> message(8 + quoted.size());
    message[0] = icmp4::time_exceeded;
    std::copy(quoted.begin(), quoted.end(), message.begin() + 8);
    return testing::make_ip("192.0.2.1", kClient4, ip_protocol::icmp, message);
  };
  EXPECT_TRUE(arrives(time_exceeded(datagram(name.c_str(), "a"))));
  EXPECT_FALSE(arrives(time_exceeded(make_udp("100.64.0.9", name, 1, 2, "a"))));
}

TEST_F(Agent, MulticastLinkLocalAndForeignSourcesStayHere) {  // trap: io-12
  net.connect({Network::cidr_resource("all4", "0.0.0.0/0"), Network::cidr_resource("all6", "::/0")});
  for (const char* to : {"224.0.0.251", "239.255.255.250", "255.255.255.255", "169.254.0.1"})
    net.send(make_udp(kClient4, to, 5353, 5353, "x"));
  for (const char* to : {"ff02::2", "ff02::fb", "fe80::1"}) net.send(make_udp(kClient6, to, 5353, 5353, "x"));
  EXPECT_EQ(net.agent->drops(DropReason::multicast_not_forwarded), 7U);
  net.send(make_udp("192.0.2.7", "203.0.113.80", 1, 2, "x"));
  EXPECT_EQ(net.agent->drops(DropReason::inner_source_not_allowed), 1U);
  EXPECT_TRUE(net.requests.empty());
  EXPECT_TRUE(net.to_applications.empty());
}

TEST_F(Agent, APacketThatIsTooBigIsAnswered) {
  connect();
  net.send(datagram("203.0.113.80", std::string(1300, 'x')));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/4"});
  EXPECT_TRUE(net.requests.empty());
  net.send(datagram("203.0.113.80", std::string(1280 - 28, 'x')));
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

TEST_F(Agent, FragmentsFollowTheirFirst) {
  v1::Resource web = Network::cidr_resource("web", "203.0.113.0/24");
  web.mutable_filter()->add_udp()->set_last(65535);
  net.connect({web});
  auto first = datagram("203.0.113.80", std::string(48, 'x'));
  auto later = first;
  first[6] = 0x20;  // more fragments
  first[7] = 0;
  later[6] = 0;
  later[7] = 7;  // behind it
  net.send(first);
  net.send(later);
  EXPECT_EQ(net.gw().packets.size(), 2U);
  EXPECT_TRUE(net.icmp_errors().empty());
}

TEST_F(Agent, OtherTypesOfAResourcesNamesAreAskedThroughTheTunnel) {
  connect();
  const auto question = Network::query("_ldap.corp.example", 33);
  dns::Client client;
  client.remote = *Endpoint::parse("127.0.0.1:4000");
  EXPECT_TRUE(net.agent->handle_query(question, client, net.now).empty());
  net.pump();
  EXPECT_EQ(net.requests.size(), 1U);  // the query was the first packet
  ASSERT_EQ(net.gw().dns_queries.size(), 1U);
  EXPECT_EQ(net.gw().dns_queries[0].resource(), "corp");
  ASSERT_EQ(net.dns_answers.size(), 1U);
  EXPECT_EQ(net.dns_answers[0][3] & 0x0f, 0);
}

TEST_F(Agent, WhatWaitsInVainIsAnsweredInTheEnd) {
  connect();
  net.gw().deaf = true;
  net.send(datagram("203.0.113.80", "a"));
  net.advance(11s);
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/1"});
  EXPECT_EQ(net.agent->drops(DropReason::gateway_unreachable), 1U);
  const std::size_t requests = net.requests.size();
  net.advance(10min);  // and nobody asks on for what nobody wants
  EXPECT_LE(net.requests.size(), requests + 1);
}

TEST_F(Agent, AStaticGatewayNeedsNoPortal) {
  StaticGateway gateway;
  gateway.public_key = net.gw().device->public_key();
  gateway.endpoints = {net.gw().endpoint};
  gateway.tunnel_v4 = testing::ip(kClient4);
  Resource lan;
  lan.id = "lan";
  lan.kind = policy::ResourceKind::cidr;
  lan.prefix = *Prefix::parse("203.0.113.0/24");
  gateway.resources = {lan};
  net.agent->use_static_gateway(gateway, net.now);
  net.gw().authorise(net.client_key, {}, net.now);
  net.send(datagram("203.0.113.80", "a"));
  EXPECT_EQ(net.gw().packets.size(), 1U);
  net.gw().send(make_udp("203.0.113.80", kClient4, 7, 4000, "b"), net.now);
  net.pump();
  EXPECT_EQ(net.to_applications.size(), 1U);
  net.send(datagram("198.51.100.99", "c"));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/13"});
}

TEST_F(Agent, AnIdleClientSleeps) {  // trap: paths-21
  connect();
  net.send(datagram("203.0.113.80", "a"));
  net.advance(5min);
  const std::size_t before = net.turns;
  net.advance(10min);
  EXPECT_LE(net.turns - before, 1200U);  // probes, keepalives, rekeys: about one a second
}

TEST(AgentProperties, NoInputFromOutsideEndsIt) {
  EXPECT_TRUE(rc::check("random packets, datagrams and messages", [] {
    Network net;
    net.on_request = [&net](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
    net.connect({Network::dns_resource("corp", "**.corp.example"), Network::cidr_resource("lan", "203.0.113.0/24")});
    net.send(make_udp(kClient4, "203.0.113.80", 1, 2, "x"));
    for (int i = 0; i < 40; ++i) {
      auto bytes = *rc::gen::container<std::vector<std::uint8_t>>(rc::gen::arbitrary<std::uint8_t>());
      switch (*rc::gen::inRange(0, 6)) {
        case 0:
          if (!bytes.empty()) bytes[0] = 0x45;
          net.send(bytes);
          break;
        case 1: {
          const InDatagram in{bytes, testing::kSocket, net.gw().endpoint};
          net.agent->handle_datagrams({&in, 1}, net.now);
          break;
        }
        case 2: {
          v1::PortalToClient message;
          if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
            net.agent->handle_portal_message(message, net.now);
          break;
        }
        case 3:
          net.gw().send(bytes, net.now);
          break;
        case 4: {
          std::vector<std::uint8_t> control(40 + bytes.size());
          wireguard::write_control_header(MutableBytes{control}.first(40), wireguard::ControlDirection::to_client,
                                          static_cast<std::uint16_t>(bytes.size()));
          std::copy(bytes.begin(), bytes.end(), control.begin() + 40);
          if (control.size() > 40) control[40] = static_cast<std::uint8_t>(1 + bytes[0] % 4);
          net.gw().send(control, net.now);
          break;
        }
        default:
          net.advance(std::chrono::milliseconds(*rc::gen::inRange(1, 2000)));
      }
      net.pump();
    }
    // It still works.
    const std::size_t before = net.gw().packets.size();
    net.send(make_udp(kClient4, "203.0.113.80", 1, 2, "at the end"));
    net.advance(5s);
    RC_ASSERT(net.gw().packets.size() > before);
  }));
}

}  // namespace
}  // namespace penstock::client
