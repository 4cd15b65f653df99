#include <gmock/gmock.h>

#include "tests/unit/agent/agent_bench.h"

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

class Agent : public testing::Test, protected AgentBench {};

TEST_F(Agent, SaysHelloWithTheDataPlanesKey) {
  EXPECT_FALSE(agent->ready_for_portal());
  up();
  ASSERT_TRUE(agent->ready_for_portal());
  welcome();
  ASSERT_FALSE(portal.empty());
  const v1::Hello& hello = portal.front().hello();
  EXPECT_EQ(hello.public_key(), key_text(200));
  EXPECT_EQ(hello.tunnel_port(), 51820u);
  EXPECT_EQ(hello.protocol_version().minor(), 1u);
  ASSERT_EQ(hello.candidates_size(), 1);
  EXPECT_EQ(from_proto(hello.candidates(0).endpoint())->to_string(), "198.51.100.194:51820");
}

TEST_F(Agent, AnAuthorizeReachesTheDataPlaneBeforeItsAnswer) {
  up();
  welcome();
  hold_applies = true;
  v1::Authorize wanted = authorisation(1);
  wanted.add_names()->set_name("Web.Corp.Example");
  wanted.mutable_names(0)->set_proxy_v4(to_wire(*IpAddress::parse("100.96.0.1")));
  authorize(wanted);
  EXPECT_EQ(result(), nullptr);
  hold_applies = false;
  release_apply();
  ASSERT_NE(result(), nullptr);
  EXPECT_TRUE(result()->ok()) << result()->error();
  EXPECT_EQ(result()->request_id(), "r1");
  EXPECT_EQ(result()->candidates_size(), 1);
  const v1::Peer& peer = dataplane.peers.at(key_text(1));
  EXPECT_EQ(peer.preshared_key(), key_text(101));
  EXPECT_TRUE(peer.control());
  EXPECT_FALSE(peer.pinned_endpoint());
  EXPECT_EQ(dataplane.authorisations.size(), 1u);
  ASSERT_NE(translation("web.corp.example"), nullptr);
  EXPECT_EQ(translation("web.corp.example")->state(), v1::PeerTranslation::STATE_RESOLVING);
  answer_all();
  EXPECT_EQ(translation("web.corp.example")->state(), v1::PeerTranslation::STATE_ACTIVE);
}

TEST_F(Agent, AnEagerClientsEndpointIsPinned) {
  up();
  welcome();
  v1::Authorize wanted = authorisation(1);
  wanted.mutable_client_version()->set_minor(0);
  authorize(wanted);
  EXPECT_TRUE(dataplane.peers.at(key_text(1)).pinned_endpoint());
}

TEST_F(Agent, RefusesWhatIsMalformedAndChangesNothing) {
  up();
  welcome();
  const std::size_t before = dataplane.changes;
  struct Case {
    const char* what;
    void (*spoil)(v1::Authorize&);
  };
  for (const Case& c :
       {Case{"malformed client key", [](v1::Authorize& it) { it.set_client_public_key("x"); }},
        Case{"malformed preshared key", [](v1::Authorize& it) { it.clear_preshared_key(); }},
        Case{"no tunnel address", [](v1::Authorize& it) { it.mutable_tunnel()->set_v4("abc"); }},
        Case{"malformed id", [](v1::Authorize& it) { it.clear_authorisation(); }},
        Case{"malformed pattern", [](v1::Authorize& it) { it.mutable_resource()->set_pattern("a..b"); }},
        Case{"malformed prefix", [](v1::Authorize& it) { it.mutable_resource()->set_kind(v1::RESOURCE_KIND_CIDR); }},
        Case{"unknown kind",
             [](v1::Authorize& it) { it.mutable_resource()->set_kind(static_cast<v1::ResourceKind>(99)); }},
        Case{"already expired", [](v1::Authorize& it) { it.mutable_expires()->set_seconds(1); }}}) {
    v1::Authorize wanted = authorisation(1);
    c.spoil(wanted);
    authorize(wanted);
    ASSERT_NE(result(), nullptr) << c.what;
    EXPECT_FALSE(result()->ok());
    EXPECT_THAT(result()->error(), HasSubstr(c.what));
  }
  EXPECT_EQ(dataplane.changes, before);
  EXPECT_EQ(agent->authorisation_count(), 0u);
}

TEST_F(Agent, TheDataPlanesRefusalIsTheAnswer) {
  up();
  welcome();
  dataplane.refuse.insert("c1/corp");
  authorize(authorisation(1));
  ASSERT_NE(result(), nullptr);
  EXPECT_FALSE(result()->ok());
  EXPECT_EQ(result()->error(), "peer is not known");
}

TEST_F(Agent, WithoutADataPlaneTheAnswerIsNo) {
  up();
  welcome();
  agent->handle_dataplane_down(now);
  authorize(authorisation(1));
  ASSERT_NE(result(), nullptr);
  EXPECT_FALSE(result()->ok());
  up();
  authorize(authorisation(1));
  EXPECT_TRUE(result()->ok());
}

TEST_F(Agent, AnAnswerOwedWhenTheDataPlaneDiesIsNo) {
  up();
  welcome();
  hold_applies = true;
  authorize(authorisation(1));
  authorize(authorisation(2));
  agent->handle_dataplane_down(now);
  run();
  std::size_t refused = 0;
  for (const auto& message : portal) refused += message.has_authorize_result() && !message.authorize_result().ok();
  EXPECT_EQ(refused, 2u);
}

// trap: flow-8, flow-9
TEST_F(Agent, WelcomeIsAuthoritative) {
  up();
  welcome({authorisation(1), authorisation(2)});
  EXPECT_EQ(dataplane.peers.size(), 2u);
  agent->handle_portal_disconnected(now);
  welcome({authorisation(2)});
  EXPECT_FALSE(dataplane.peers.contains(key_text(1)));
  EXPECT_TRUE(dataplane.peers.contains(key_text(2)));
  EXPECT_EQ(dataplane.authorisations.size(), 1u);
}

TEST_F(Agent, ARepeatedWelcomeChangesNothing) {
  up();
  welcome({authorisation(1), authorisation(2)});
  resolve(1, "a.corp.example");
  answer_all();
  const std::size_t before = dataplane.changes;
  const std::uint64_t generation = dataplane.generation;
  agent->handle_portal_disconnected(now);
  welcome({authorisation(1), authorisation(2)});
  EXPECT_EQ(dataplane.changes, before);
  EXPECT_GT(dataplane.generation, generation);
  EXPECT_EQ(addresses("a.corp.example"), (std::vector<std::string>{"203.0.113.80"}));
}

TEST_F(Agent, ARestartedDataPlaneIsRefilled) {
  up();
  welcome({authorisation(1)});
  resolve(1, "a.corp.example");
  answer_all();
  agent->handle_dataplane_down(now);
  const FakeDataPlane old = std::exchange(dataplane, FakeDataPlane{});
  dataplane.info = old.info;
  dataplane.info.set_instance(2);
  up();
  EXPECT_EQ(dataplane.peers.size(), 1u);
  EXPECT_EQ(dataplane.peers.at(key_text(1)).preshared_key(), key_text(101));
  EXPECT_EQ(dataplane.authorisations.size(), 1u);
  EXPECT_EQ(addresses("a.corp.example"), (std::vector<std::string>{"203.0.113.80"}));
  EXPECT_EQ(dataplane.stun_servers, 2);
  EXPECT_EQ(reopened, 0);
  agent->handle_dataplane_down(now);
  dataplane.info.set_public_key(key_text(201));
  dataplane.info.set_instance(3);
  up();
  EXPECT_EQ(reopened, 1);  // another identity
}

TEST_F(Agent, ARestartedAgentNeitherWipesNorForgets) {
  up();
  welcome({authorisation(1)});
  resolve(1, "a.corp.example");
  answer_all();
  restart_agent();
  const std::size_t before = dataplane.changes;
  up();  // the portal is away
  EXPECT_EQ(dataplane.changes, before);
  // Names under what is authorised are resolved all the same, others are not.
  resolve(1, "b.corp.example", "100.96.0.2", 8);
  answer_all();
  EXPECT_EQ(addresses("b.corp.example"), (std::vector<std::string>{"203.0.113.80"}));
  resolve(1, "b.other.example", "100.96.0.3", 9);
  EXPECT_EQ(reply(9)->name_status().state(), v1::NameStatus::STATE_FORBIDDEN);
  EXPECT_EQ(dataplane.peers.at(key_text(1)).preshared_key(), key_text(101));
  const std::size_t after = dataplane.changes;
  welcome({authorisation(1)});
  EXPECT_EQ(dataplane.changes, after);
  EXPECT_EQ(dataplane.translations.size(), 2u);
}

TEST_F(Agent, ARestartedAgentServesWhatItFoundUntilDnsAnswers) {
  up();
  welcome({authorisation(1)});
  resolve(1, "a.corp.example");
  answer_all();
  restart_agent();
  auto_dns = false;
  up();
  waiting.clear();  // DNS is silent
  advance(10s);
  EXPECT_EQ(addresses("a.corp.example"), (std::vector<std::string>{"203.0.113.80"}));
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_ACTIVE);
}

TEST_F(Agent, RevocationEndsNamesAndPeer) {
  v1::Resource printer;
  printer.set_id("printer");
  printer.set_kind(v1::RESOURCE_KIND_ADDRESS);
  *printer.mutable_prefix() = to_proto(*Prefix::parse("203.0.113.200"));
  up();
  welcome({authorisation(1), authorisation(1, printer)});
  resolve(1, "a.corp.example");
  answer_all();
  session_up(1);
  revoke("c1/corp");
  EXPECT_TRUE(dataplane.translations.empty());
  EXPECT_TRUE(dataplane.peers.contains(key_text(1)));
  controls.clear();
  revoke("c1/printer");
  EXPECT_TRUE(dataplane.peers.empty());
  // trap: flow-10
  ASSERT_FALSE(controls.empty());
  EXPECT_EQ(controls.front().second.goodbye().reason(), "revoked");
  revoke("c1/printer");  // once more is harmless
}

// trap: flow-13, flow-14
TEST_F(Agent, AuthorisationsExpireAndRenewedOnesDoNot) {
  up();
  welcome();
  v1::Authorize wanted = authorisation(1);
  wanted.mutable_expires()->set_seconds(static_cast<std::int64_t>(now.wall.seconds) + 100);
  authorize(wanted);
  advance(50s);
  wanted.mutable_expires()->set_seconds(static_cast<std::int64_t>(now.wall.seconds) + 100);
  authorize(wanted);
  advance(60s);
  EXPECT_EQ(dataplane.peers.size(), 1u);
  advance(41s);
  EXPECT_TRUE(dataplane.peers.empty());
}

TEST_F(Agent, TheWallClockMaySteppedOver) {
  up();
  welcome();
  v1::Authorize wanted = authorisation(1);
  wanted.mutable_expires()->set_seconds(static_cast<std::int64_t>(now.wall.seconds) + 100'000);
  authorize(wanted);
  now.wall.seconds += 200'000;  // set right
  advance(61s);
  EXPECT_TRUE(dataplane.peers.empty());
}

// trap: flow-16, flow-17
TEST_F(Agent, AChangedResourceIsAppliedToLivePeers) {
  up();
  welcome({authorisation(1)});
  resolve(1, "a.corp.example");
  resolve(1, "b.corp.example", "100.96.0.2", 8);
  answer_all();
  v1::Authorize changed = authorisation(1);
  changed.mutable_resource()->set_pattern("a.corp.example");
  changed.mutable_resource()->mutable_filter()->set_icmp_echo(true);
  changed.mutable_resource()->set_ip_stack(v1::IP_STACK_IPV4);
  authorize(changed);
  EXPECT_TRUE(dataplane.authorisations.at("c1/corp").resource().filter().icmp_echo());
  EXPECT_EQ(dataplane.authorisations.at("c1/corp").resource().ip_stack(), v1::IP_STACK_IPV4);
  EXPECT_NE(translation("a.corp.example"), nullptr);
  EXPECT_EQ(translation("b.corp.example"), nullptr);
}

// trap: paths-4
TEST_F(Agent, AChangedPresharedKeyIsToldToTheDataPlane) {
  up();
  welcome({authorisation(1)});
  v1::Authorize changed = authorisation(1);
  changed.set_preshared_key(key_text(77));
  authorize(changed);
  EXPECT_EQ(dataplane.peers.at(key_text(1)).preshared_key(), key_text(77));
}

TEST_F(Agent, AClientsNewKeyReplacesItsOldPeer) {
  up();
  welcome({authorisation(1)});
  v1::Authorize changed = authorisation(1);
  changed.set_client_public_key(key_text(9));
  authorize(changed);
  EXPECT_FALSE(dataplane.peers.contains(key_text(1)));
  EXPECT_TRUE(dataplane.peers.contains(key_text(9)));
  EXPECT_EQ(dataplane.authorisations.at("c1/corp").peer(), key_text(9));
}

TEST_F(Agent, WhatTakesAnothersPlaceComesAfterItsRemoval) {
  // A client's new key has the old one's tunnel address: sweeping the old peer at the end would be too late.
  v1::Authorize changed = authorisation(1);
  changed.set_client_public_key(key_text(9));
  up();
  welcome({authorisation(1)});
  agent->handle_portal_disconnected(now);
  welcome({changed});
  EXPECT_EQ(agent->counters().apply_errors, 0u);
  EXPECT_TRUE(dataplane.peers.contains(key_text(9)));
  EXPECT_EQ(dataplane.peers.size(), 1u);
  // The same while the data plane is away.
  agent->handle_dataplane_down(now);
  agent->handle_portal_disconnected(now);
  welcome({authorisation(1)});
  up();
  EXPECT_EQ(agent->counters().apply_errors, 0u);
  EXPECT_TRUE(dataplane.peers.contains(key_text(1)));
  EXPECT_EQ(dataplane.peers.size(), 1u);
}

TEST_F(Agent, ManyClientsAreSynchronisedInPieces) {
  up();
  std::vector<v1::Authorize> many;
  for (int i = 0; i < 3000; ++i) {
    v1::Authorize one = authorisation(1);
    one.set_authorisation("c" + std::to_string(i) + "/corp");
    std::string key(32, 'k');
    key[0] = static_cast<char>(i);
    key[1] = static_cast<char>(i >> 8);
    one.set_client_public_key(key);
    one.mutable_tunnel()->set_v4(to_wire(IpAddress::v4(0x64400001U + static_cast<std::uint32_t>(i))));
    many.push_back(one);
  }
  welcome(many);
  EXPECT_EQ(dataplane.peers.size(), 3000u);
  EXPECT_EQ(dataplane.authorisations.size(), 3000u);
  many.resize(1);
  agent->handle_portal_disconnected(now);
  welcome(many);
  EXPECT_EQ(dataplane.peers.size(), 1u);
}

TEST_F(Agent, NothingIsTakenBeforeWelcome) {
  up();
  agent->handle_portal_connected(now);
  authorize(authorisation(1));
  EXPECT_TRUE(dataplane.peers.empty());
}

TEST_F(Agent, LoadIsReportedWhenItChanges) {
  up();
  welcome({authorisation(1)});
  portal.clear();
  advance(20s);
  session_up(1);
  advance(20s);
  std::vector<std::uint32_t> loads;
  for (const auto& message : portal)
    if (message.has_load()) loads.push_back(message.load().peers());
  EXPECT_THAT(loads, ElementsAre(0u, 1u));
}

TEST_F(Agent, GoodbyeReachesThoseWhoAreThere) {
  up();
  welcome({authorisation(1), authorisation(2)});
  session_up(2);
  controls.clear();
  agent->say_goodbye("ends");
  run();
  ASSERT_EQ(controls.size(), 1u);
  EXPECT_EQ(controls[0].first, key_text(2));
}

// What the site says goes to the data plane with the welcome, when it changes, and again with every synchronisation.
TEST_F(Agent, TheSitesSettingsReachTheDataPlane) {
  up();
  welcome();
  EXPECT_EQ(dataplane.sites, 0) << "it says nothing";
  v1::PortalToGateway message;
  message.mutable_site_settings()->set_source_nat(v1::SiteSettings::SOURCE_NAT_OFF);
  agent->handle_portal(message, now);
  run();
  EXPECT_EQ(dataplane.sites, 1);
  EXPECT_EQ(dataplane.site.source_nat(), v1::SiteSettings::SOURCE_NAT_OFF);
  dataplane.info.set_instance(2);  // a new process, which knows nothing
  dataplane.site.Clear();
  agent->handle_dataplane_down(now);
  up();
  EXPECT_EQ(dataplane.site.source_nat(), v1::SiteSettings::SOURCE_NAT_OFF);
  message.mutable_site_settings()->Clear();
  agent->handle_portal(message, now);
  run();
  EXPECT_EQ(dataplane.site.ByteSizeLong(), 0u) << "the gateway's own file decides again";
}

}  // namespace
}  // namespace penstock::gateway_agent
