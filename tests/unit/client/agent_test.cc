// The client agent against a gateway (a second WireGuard device) and a portal, under virtual time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/unit/client/agent_harness.h"

namespace penstock::client {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using testing::kClient4;
using testing::kClient6;
using testing::make_echo;
using testing::make_tcp;
using testing::make_udp;
using testing::Network;

class Agent : public ::testing::Test {
 protected:
  void SetUp() override {
    net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
  }
  void connect() {
    net.connect({Network::dns_resource("corp", "**.corp.example"), Network::cidr_resource("lan", "203.0.113.0/24")});
  }
  static std::vector<std::uint8_t> datagram(const char* to, const std::string& text) {
    return make_udp(kClient4, to, 4000, 7, text);
  }
  Network net;
};

TEST_F(Agent, TheFirstPacketsAreDeliveredOnceAndInOrder) {
  connect();
  net.on_request = nullptr;
  std::vector<std::vector<std::uint8_t>> sent;
  for (int i = 0; i < 20; ++i) {
    sent.push_back(datagram("203.0.113.80", "packet " + std::to_string(i)));
    net.send(sent.back());
    net.send(sent.back());  // trap: flow-7
  }
  ASSERT_EQ(net.requests.size(), 1U);
  EXPECT_EQ(net.requests[0].resource(), "lan");
  EXPECT_GE(net.requests[0].candidates_size(), 1);
  EXPECT_TRUE(net.gw().packets.empty());
  net.grant(net.requests[0], net.gw());
  net.pump();
  EXPECT_EQ(net.gw().packets, sent);
  // And from here on without a queue.
  net.send(datagram("203.0.113.81", "more"));
  EXPECT_EQ(net.gw().packets.size(), sent.size() + 1);
  EXPECT_EQ(net.requests.size(), 1U);
}

TEST_F(Agent, TheFirstNameTravelsWithTheRequestLaterOnesInTheTunnel) {
  connect();
  const std::string first = net.resolve("web.corp.example");
  const std::string second = net.resolve("db.corp.example");
  ASSERT_NE(first, second);
  net.send(datagram(first.c_str(), "one"));
  ASSERT_EQ(net.requests.size(), 1U);
  ASSERT_EQ(net.requests[0].names_size(), 1);
  EXPECT_EQ(net.requests[0].names(0).name(), "web.corp.example");
  EXPECT_EQ(net.gw().packets.size(), 1U);
  EXPECT_EQ(net.gw().resolve_requests, 0);
  net.send(datagram(second.c_str(), "two"));
  EXPECT_EQ(net.gw().resolve_requests, 1);
  EXPECT_EQ(net.gw().packets.size(), 2U);
  net.send(datagram(second.c_str(), "three"));
  EXPECT_EQ(net.gw().packets.size(), 3U);
  EXPECT_EQ(net.gw().resolve_requests, 1);
  EXPECT_EQ(net.requests.size(), 1U);
}

TEST_F(Agent, ALostSetUpMessageIsRepeated) {  // trap: flow-4
  connect();
  net.send(datagram(net.resolve("web.corp.example").c_str(), "one"));
  ASSERT_EQ(net.gw().packets.size(), 1U);
  int lost = 0;
  net.drop_back = [&](Bytes bytes) { return bytes.size() > 100 && lost++ < 3; };
  const auto packet = datagram(net.resolve("db.corp.example").c_str(), "two");
  net.send(packet);
  EXPECT_EQ(net.gw().packets.size(), 1U);
  net.advance(5s);
  ASSERT_EQ(net.gw().packets.size(), 2U);
  EXPECT_EQ(net.gw().packets[1], packet);
  EXPECT_GE(net.gw().resolve_requests, 2);
}

TEST_F(Agent, OneTunnelPerGateway) {
  connect();
  net.send(datagram("203.0.113.80", "a"));
  net.send(datagram(net.resolve("web.corp.example").c_str(), "b"));
  EXPECT_EQ(net.requests.size(), 2U);
  EXPECT_EQ(net.gw().packets.size(), 2U);
  EXPECT_EQ(net.gw().initiations, 1);
  ASSERT_EQ(net.requests[1].connected_gateways_size(), 1);
  EXPECT_EQ(net.requests[1].connected_gateways(0), "gw1");
}

struct RefusalCase {
  v1::RefusalReason reason;
  const char* v4;
  const char* v6;
};
class AgentRefusal : public Agent, public ::testing::WithParamInterface<RefusalCase> {};

TEST_P(AgentRefusal, IsAnsweredAtOnceAndNotAskedForAgainAndAgain) {
  net.on_request = [this](const v1::RequestConnection& request) { net.refuse(request, GetParam().reason); };
  net.connect({Network::cidr_resource("lan", "203.0.113.0/24"), Network::cidr_resource("lan6", "2001:db8::/32")});
  net.send(datagram("203.0.113.80", "a"));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{GetParam().v4});
  net.send(make_udp(kClient6, "2001:db8::80", 4000, 7, "a"));
  EXPECT_EQ(net.icmp_errors(), (std::vector<std::string>{GetParam().v4, GetParam().v6}));
  for (int i = 0; i < 10; ++i) net.send(datagram("203.0.113.80", std::to_string(i)));
  EXPECT_EQ(net.requests.size(), 2U);
  EXPECT_EQ(net.icmp_errors().size(), 12U);
  // Some time later the next packet asks again; the answer may be another by then.
  net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
  net.advance(10s);
  net.send(datagram("203.0.113.80", "again"));
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, AgentRefusal,
                         ::testing::Values(RefusalCase{v1::REFUSAL_REASON_FORBIDDEN, "3/13", "1/1"},
                                           RefusalCase{v1::REFUSAL_REASON_NOT_FOUND, "3/1", "1/3"},
                                           RefusalCase{v1::REFUSAL_REASON_OFFLINE, "3/1", "1/3"},
                                           RefusalCase{v1::REFUSAL_REASON_VERSION_MISMATCH, "3/1", "1/3"}),
                         [](const auto& value) { return v1::RefusalReason_Name(value.param.reason); });

TEST_F(Agent, AFilterThatForbidsCausesNoRequest) {  // trap: flow-15
  v1::Resource web = Network::cidr_resource("web", "203.0.113.0/24");
  auto* range = web.mutable_filter()->add_tcp();
  range->set_first(80);
  range->set_last(80);
  net.connect({web});
  for (int i = 0; i < 5; ++i) net.send(make_tcp(kClient4, "203.0.113.80", 4000, 22, 1, tcp_flag::syn));
  EXPECT_TRUE(net.requests.empty());
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>(5, "3/13"));
  EXPECT_EQ(net.agent->drops(DropReason::policy_filtered), 5U);
  // The filter is changed: effective for the next packet, without asking anew for what stands.
  range->set_first(22);
  v1::ResourceChange change;
  *change.add_upserted() = web;
  net.change(change);
  net.send(make_tcp(kClient4, "203.0.113.80", 4000, 22, 1, tcp_flag::syn));
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

TEST_F(Agent, NamesThatDoNotExist) {  // trap: nat-17
  connect();
  net.send(datagram("203.0.113.80", "tunnel first"));
  net.gw().names["no.corp.example"] = v1::NameStatus::STATE_NO_SUCH_NAME;
  net.gw().names["bad.corp.example"] = v1::NameStatus::STATE_FORBIDDEN;
  const std::string missing = net.resolve("no.corp.example");
  const std::string known = net.resolve("yes.corp.example");
  net.send(datagram(known.c_str(), "authorise corp"));
  net.send(datagram(missing.c_str(), "a"));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/1"});
  // The resolver says so too, for a while.
  dns::Client client;
  const Bytes reply = net.agent->handle_query(Network::query("no.corp.example", 1), client, net.now);
  ASSERT_GE(reply.size(), 12U);
  EXPECT_EQ(reply[3] & 0x0f, 3);
  net.send(datagram(missing.c_str(), "b"));
  EXPECT_EQ(net.icmp_errors().size(), 2U);
  const int asked = net.gw().resolve_requests;
  net.advance(11s);
  net.gw().names.clear();
  net.send(datagram(missing.c_str(), "c"));  // trap: flow-3
  EXPECT_EQ(net.gw().resolve_requests, asked + 1);
  EXPECT_EQ(net.icmp_errors().size(), 2U);
  net.gw().names["bad.corp.example"] = v1::NameStatus::STATE_FORBIDDEN;
  net.send(datagram(net.resolve("bad.corp.example").c_str(), "d"));
  EXPECT_EQ(net.icmp_errors().back(), "3/13");
}

TEST_F(Agent, AnAddressOfThePoolWithoutANameIsNobodyElses) {  // trap: dns-14
  net.connect({Network::cidr_resource("all", "100.0.0.0/8")});
  net.send(datagram("100.96.77.77", "a"));
  net.send(datagram("100.100.111.9", "b"));
  EXPECT_TRUE(net.requests.empty());
  EXPECT_EQ(net.icmp_errors(), (std::vector<std::string>{"3/1", "3/1"}));
}

TEST_F(Agent, RevocationTakesEffectForTheNextPacket) {  // trap: flow-5
  connect();
  net.send(datagram("203.0.113.80", "a"));
  ASSERT_EQ(net.gw().packets.size(), 1U);
  net.on_request = [this](const v1::RequestConnection& request) { net.refuse(request, v1::REFUSAL_REASON_FORBIDDEN); };
  net.revoke("lan", "gw2");  // an old gateway's: no effect
  net.send(datagram("203.0.113.80", "b"));
  EXPECT_EQ(net.gw().packets.size(), 2U);
  net.revoke("lan", "gw1");
  net.send(datagram("203.0.113.80", "c"));
  net.advance(3s);
  EXPECT_EQ(net.gw().packets.size(), 2U);
  EXPECT_THAT(net.icmp_errors(), Contains("3/13"));
}

TEST_F(Agent, ASnapshotWithoutTheResourceEndsIt) {  // trap: flow-8, flow-5
  connect();
  net.send(datagram("203.0.113.80", "a"));
  net.disconnect();
  net.advance(60s);
  net.connect({Network::dns_resource("corp", "**.corp.example")});
  net.send(datagram("203.0.113.80", "b"));
  EXPECT_EQ(net.gw().packets.size(), 1U);
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/13"});
  EXPECT_EQ(net.requests.size(), 1U);
  const auto routes = net.agent->interface().routes;
  EXPECT_EQ(std::count(routes.begin(), routes.end(), *Prefix::parse("203.0.113.0/24")), 0);
}

TEST_F(Agent, AnotherSiteIsAnotherAuthorisation) {  // trap: flow-17
  connect();
  net.send(datagram("203.0.113.80", "a"));
  v1::ResourceChange change;
  *change.add_upserted() = Network::cidr_resource("lan", "203.0.113.0/24");
  net.change(change);
  net.send(datagram("203.0.113.80", "b"));
  EXPECT_EQ(net.requests.size(), 1U);  // the same again: nothing happened
  change.mutable_upserted(0)->set_site("branch");
  net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw(1)); };
  net.change(change);
  net.send(datagram("203.0.113.80", "c"));
  net.advance(3s);
  EXPECT_EQ(net.requests.size(), 2U);
  ASSERT_EQ(net.gw(1).packets.size(), 1U);
}

TEST_F(Agent, ThePortalBeingAwayStopsOnlyNewAuthorisations) {
  connect();
  const std::string name = net.resolve("web.corp.example");
  net.send(datagram(name.c_str(), "a"));
  net.disconnect();
  net.advance(1h);
  net.send(datagram(name.c_str(), "b"));
  net.send(datagram(net.resolve("other.corp.example").c_str(), "c"));  // a new name in the tunnel
  EXPECT_EQ(net.gw().packets.size(), 3U);
  // A Resource that was not authorised yet cannot be had: said at once, for the portal is away for long.
  net.send(datagram("203.0.113.80", "d"));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/1"});
  EXPECT_EQ(net.requests.size(), 1U);
  connect();
  net.send(datagram("203.0.113.80", "e"));
  EXPECT_EQ(net.gw().packets.size(), 4U);
}

TEST_F(Agent, AShortAbsenceOfThePortalLosesNothing) {
  connect();
  net.disconnect();
  net.send(datagram("203.0.113.80", "a"));
  net.advance(2s);
  EXPECT_TRUE(net.icmp_errors().empty());
  connect();
  EXPECT_EQ(net.requests.size(), 1U);  // trap: flow-18
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

TEST_F(Agent, AGatewayThatForgotUsIsToldAgain) {  // trap: flow-10, paths-3
  connect();
  net.gateway_is_told = false;
  net.send(datagram("203.0.113.80", "a"));
  EXPECT_TRUE(net.gw().packets.empty());
  net.gateway_is_told = true;
  net.advance(8s);
  EXPECT_EQ(net.requests.size(), 2U);
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

// The gateway's machine was restarted while the client was idle: tunnel and right are back, the name is not.
TEST_F(Agent, AGatewayThatForgotANameIsToldAgain) {  // trap: flow-10
  connect();
  const std::string name = net.resolve("web.corp.example");
  net.send(datagram(name.c_str(), "a"));
  ASSERT_EQ(net.gw().packets.size(), 1U);
  ASSERT_EQ(net.gw().resolve_requests, 0) << "it travelled with the request";
  const auto ask = [&](const char* proxy) {
    v1::Control wanted;
    wanted.mutable_names_wanted()->add_proxy_addresses(to_wire(testing::ip(proxy)));
    const int acknowledged = net.gw().acknowledged;
    net.gw().send_control(0, 77, false, wanted, net.now);
    net.pump();
    EXPECT_EQ(net.gw().acknowledged, acknowledged + 1) << proxy;
  };
  ask(name.c_str());
  EXPECT_EQ(net.gw().resolve_requests, 1);
  net.send(datagram(name.c_str(), "b"));
  EXPECT_EQ(net.gw().packets.size(), 2U);
  EXPECT_EQ(net.gw().resolve_requests, 1) << "and once is enough";
  // Nothing is said about what this gateway has no part in.
  ask(net.resolve("unused.corp.example").c_str());
  ask("100.96.255.254");
  ask("203.0.113.80");
  EXPECT_EQ(net.gw().resolve_requests, 1);
}

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
