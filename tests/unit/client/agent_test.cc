// The client agent against a gateway (a second WireGuard device) and a portal, under virtual time.
#include "tests/unit/client/agent_fixture.h"

namespace penstock::client {
namespace {

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

// A NAT that forgot us between the dialling and the Welcome leaves a stream that looks well.
TEST_F(Agent, AStreamWithoutAWelcomeIsDoubtedLessAndLessOften) {
  net.portal_up = true;
  net.agent->handle_portal_connected(net.now);
  net.advance(900ms);
  EXPECT_EQ(net.portal_doubts, 0);
  net.advance(1200ms);
  EXPECT_EQ(net.portal_doubts, 1);
  net.advance(10min);
  EXPECT_GE(net.portal_doubts, 20);
  EXPECT_LE(net.portal_doubts, 45);
  connect();
  const int before = net.portal_doubts;
  net.advance(10min);
  EXPECT_EQ(net.portal_doubts, before);
}

// The portal names a Resource again when a gateway of its site is back: nobody waits out a refusal that is over.
TEST_F(Agent, AResourceThatIsNamedAgainIsAskedForAtOnce) {
  connect();
  net.on_request = [this](const v1::RequestConnection& request) {
    net.refuse(request, v1::REFUSAL_REASON_OFFLINE);
  };
  for (int i = 0; i < 40; ++i) {  // into the back-off
    net.send(datagram("203.0.113.80", "a"));
    net.advance(500ms);
  }
  net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
  const std::size_t before = net.requests.size();
  v1::ResourceChange change;
  *change.add_upserted() = Network::cidr_resource("lan", "203.0.113.0/24");
  net.change(change);
  net.advance(2s);
  EXPECT_EQ(net.requests.size(), before);  // nobody wants it
  net.send(datagram("203.0.113.80", "b"));
  net.advance(300ms);
  EXPECT_EQ(net.requests.size(), before + 1);
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

// What the client finds between its request and the grant (its relay's address, say) is told with the grant.
TEST_F(Agent, CandidatesFoundWhileThePortalDecidesAreTold) {
  v1::RequestConnection asked;
  net.on_request = [&](const v1::RequestConnection& request) { asked = request; };
  connect();
  net.send(datagram("203.0.113.80", "a"));
  ASSERT_EQ(asked.candidates_size(), 1);
  const Endpoint sockets[] = {testing::kSocket};
  const Endpoint hosts[] = {testing::kClientHost, *Endpoint::parse("198.51.100.11:5000")};
  net.agent->handle_local_addresses(sockets, hosts, net.now);
  net.pump();
  ASSERT_TRUE(net.updates.empty()) << "there is no gateway yet to tell it to";
  net.grant(asked, net.gw());
  net.pump();
  ASSERT_EQ(net.updates.size(), 1U);
  EXPECT_EQ(net.updates[0].gateway(), "gw1");
  EXPECT_EQ(net.updates[0].candidates_size(), 2);
  // And only then.
  net.advance(1s);
  net.grant(asked, net.gw());
  net.pump();
  EXPECT_EQ(net.updates.size(), 1U);
}

// A name that rested for an hour is not asked for again: whoever would answer - the gateway's control process - may be
// away.
TEST_F(Agent, ANameThatTheGatewayKnowsIsNotAskedForAgainAfterAPause) {
  connect();
  const std::string name = net.resolve("web.corp.example");
  net.send(datagram(name.c_str(), "a"));
  ASSERT_EQ(net.gw().packets.size(), 1U);
  net.advance(1h);
  net.send(datagram(name.c_str(), "b"));
  EXPECT_EQ(net.gw().packets.size(), 2U);
  EXPECT_EQ(net.gw().resolve_requests, 0);
  EXPECT_EQ(net.requests.size(), 1U);
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

}  // namespace
}  // namespace penstock::client
