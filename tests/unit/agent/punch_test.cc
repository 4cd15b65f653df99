// Candidates: what the gateway learns about itself, and what it sends towards clients.
#include <gmock/gmock.h>

#include "dataplane/core/stun/message.h"
#include "tests/unit/agent/agent_bench.h"

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

class Punch : public testing::Test, protected AgentBench {
 protected:
  Punch() {
    up();
    welcome();
    datagrams.clear();
  }
  void offer(std::vector<const char*> texts) {
    v1::Authorize wanted = authorisation(1);
    for (const char* text : texts) *wanted.add_candidates() = to_proto(*Endpoint::parse(text), v1::CANDIDATE_KIND_HOST);
    authorize(wanted);
  }
  std::map<std::string, int> punches() {
    std::map<std::string, int> out;
    for (const auto& datagram : datagrams) {
      const auto& payload = datagram.payload();
      const auto message =
          stun::Message::parse({reinterpret_cast<const std::uint8_t*>(payload.data()), payload.size()});
      EXPECT_TRUE(message.has_value());
      EXPECT_LE(payload.size(), 64u);
      if (message->is(stun::Class::indication, stun::Method::binding))
        ++out[from_proto(datagram.remote())->to_string()];
    }
    return out;
  }
};

TEST_F(Punch, EveryCandidateIsPunchedAFewTimes) {
  offer({"198.51.100.30:7000", "[2001:db8::7]:7000"});
  advance(30s);
  EXPECT_EQ(punches(), (std::map<std::string, int>{{"198.51.100.30:7000", 8}, {"[2001:db8::7]:7000", 8}}));
}

// Sent beside the Apply they might leave after the client has heard of its answer.
TEST_F(Punch, TheFirstGoWithWhatSetsTheClientUp) {
  hold_applies = true;
  offer({"198.51.100.30:7000", "[2001:db8::7]:7000"});
  ASSERT_TRUE(held);
  ASSERT_EQ(held->request.datagrams_size(), 1);
  EXPECT_EQ(one_by_one(held->request.datagrams(0)).size(), 2u);
  EXPECT_EQ(datagrams.size(), 2u) << "and only there";
  advance(6ms);
  EXPECT_EQ(datagrams.size(), 4u) << "while the answer is waited for, by themselves";
}

// trap: paths-3
TEST_F(Punch, AgainWithEveryRequestButNeverMoreThanTwentyInAMinute) {
  for (int i = 0; i < 30; ++i) {
    offer({"198.51.100.30:7000"});
    advance(2s);
  }
  EXPECT_LE(punches()["198.51.100.30:7000"], 20);
  EXPECT_GT(punches()["198.51.100.30:7000"], 8);
  datagrams.clear();
  advance(60s);
  offer({"198.51.100.30:7000"});
  advance(10s);
  EXPECT_EQ(punches()["198.51.100.30:7000"], 8);
}

// A client whose NAT and whose gateway's NAT fail in turn within a minute is still punched the fifth time.
TEST_F(Punch, SomethingIsLeftForTheNextRound) {
  for (int round = 1; round <= 5; ++round) {
    datagrams.clear();
    offer({"198.51.100.30:7000"});
    advance(2s);
    EXPECT_GT(punches()["198.51.100.30:7000"], 0) << round;
  }
}

// The client has its permission at a relay now, say: it need not wait for the round's next.
TEST_F(Punch, NamedAgainWithinARoundTheNextGoesAtOnce) {
  offer({"198.51.100.30:7000"});
  for (int sent = 1; sent <= 7; ++sent) {
    EXPECT_EQ(punches()["198.51.100.30:7000"], sent);
    offer({"198.51.100.30:7000"});
  }
  EXPECT_EQ(punches()["198.51.100.30:7000"], 7) << "the last one keeps its time";
  advance(900ms);
  EXPECT_EQ(punches()["198.51.100.30:7000"], 7);
  advance(30s);
  EXPECT_EQ(punches()["198.51.100.30:7000"], 8);
}

TEST_F(Punch, AListThatChangesIsNoWayAroundTheLimit) {
  for (int i = 0; i < 60; ++i) {
    offer({i % 2 == 0 ? "198.51.100.30:7000" : "198.51.100.31:7000"});
    advance(1s);
  }
  for (const auto& [target, count] : punches()) EXPECT_LE(count, 20) << target;
}

TEST_F(Punch, NeverToForbiddenAddresses) {
  offer({"127.0.0.1:7000", "[::1]:7000", "0.0.0.0:7000", "224.0.0.1:7000", "[ff02::1]:7000", "255.255.255.255:7000",
         "169.254.169.254:80", "[fe80::1]:7000", "198.51.100.194:51820", "203.0.113.1:7000", "203.0.113.7:7000",
         "203.0.113.255:7000", "100.64.0.7:7000", "100.96.0.7:7000", "[::ffff:127.0.0.1]:7000", "198.51.100.30:7000"});
  advance(10s);
  EXPECT_EQ(punches(), (std::map<std::string, int>{{"198.51.100.30:7000", 8}}));
  // What is no place to punch is no endpoint for the data plane either.
  EXPECT_EQ(dataplane.peers.at(key_text(1)).endpoints_size(), 1);
}

TEST_F(Punch, OwnNetworksOnlyWhenConfigured) {
  config.punch_allowed = {*Prefix::parse("203.0.113.0/28")};
  restart_agent();
  up();
  welcome();
  datagrams.clear();
  offer({"203.0.113.7:7000", "203.0.113.200:7000", "203.0.113.1:7000", "203.0.113.255:7000"});
  advance(10s);
  EXPECT_EQ(punches(), (std::map<std::string, int>{{"203.0.113.7:7000", 8}}));
}

TEST_F(Punch, AtMostEightCandidatesPerPeerAndAGlobalBudget) {
  std::vector<std::string> texts;
  std::vector<const char*> views;
  for (int i = 0; i < 40; ++i) texts.push_back("198.51.100.30:" + std::to_string(7000 + i));
  for (const auto& text : texts) views.push_back(text.c_str());
  offer(views);
  EXPECT_EQ(punches().size(), kMaxTargetsPerPeer);
  Puncher puncher;
  const Instant start{1h};
  for (int peer = 0; peer < 255; ++peer) {
    std::vector<Endpoint> targets;
    for (std::uint16_t i = 0; i < 8; ++i) targets.push_back({*IpAddress::parse("198.51.100.30"), i});
    puncher.set_targets(key_of(static_cast<std::uint8_t>(peer)), targets, start);
  }
  std::size_t sent = 0;
  for (Instant at = start; at <= start + 1s; at = std::max(at + 1ms, puncher.poll_timeout().at)) {
    puncher.handle_timeout(at);
    while (puncher.poll()) ++sent;
  }
  EXPECT_LE(sent, 1001u);
  EXPECT_GT(sent, 900u);
}

TEST_F(Punch, EndsWithThePeer) {
  offer({"198.51.100.30:7000"});
  revoke("c1/corp");
  datagrams.clear();
  advance(30s);
  EXPECT_TRUE(punches().empty());
}

TEST_F(Punch, TrickledCandidatesArePunchedToo) {
  offer({"198.51.100.30:7000"});
  v1::PortalToGateway message;
  message.mutable_candidate_update()->set_client_public_key(key_text(1));
  *message.mutable_candidate_update()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.20:49152"), v1::CANDIDATE_KIND_RELAYED);
  agent->handle_portal(message, now);
  advance(10s);
  EXPECT_EQ(punches()["198.51.100.20:49152"], 8);
  // Named again it is punched again, and is no news to the data plane.
  const std::size_t told = dataplane.requests;
  agent->handle_portal(message, now);
  advance(10s);
  EXPECT_GT(punches()["198.51.100.20:49152"], 8);
  EXPECT_EQ(dataplane.requests, told);
  v1::Control in_tunnel;
  in_tunnel.set_id(5);
  *in_tunnel.mutable_candidates()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.77:1"), v1::CANDIDATE_KIND_HOST);
  control(1, in_tunnel);
  EXPECT_TRUE(reply(5)->has_acknowledge());
  advance(10s);
  EXPECT_EQ(punches()["198.51.100.77:1"], 8);
}

class Reflexive : public Punch {
 protected:
  // Answers the last request to this server.
  void answer(const char* server, const char* mapped, bool forge = false) {
    for (auto it = requests.rbegin(); it != requests.rend(); ++it) {
      if (from_proto(it->remote())->to_string() != server) continue;
      stun::TransactionId transaction{};
      std::copy_n(it->payload().begin() + 8, 12, reinterpret_cast<char*>(transaction.data()));
      if (forge) transaction[0] ^= 1;
      std::array<std::uint8_t, 64> buffer{};
      const Bytes bytes = stun::build_binding_response(buffer, transaction, *Endpoint::parse(mapped));
      v1::PuntToControl punt;
      *punt.mutable_datagram()->mutable_remote() = it->remote();
      punt.mutable_datagram()->set_payload(bytes.data(), bytes.size());
      agent->handle_punt(punt, now);
      run();
      return;
    }
    FAIL() << "no request to " << server;
  }
  std::vector<std::string> own() {
    std::vector<std::string> out;
    for (const auto& candidate : agent->candidates()) out.push_back(from_proto(candidate.endpoint())->to_string());
    return out;
  }
  void collect() {
    for (const auto& datagram : datagrams) requests.push_back(datagram);
    datagrams.clear();
  }
  std::vector<v1::Datagram> requests;
};

// trap: paths-15
TEST_F(Reflexive, PublicAddressesAreLearntFromTheTunnelPort) {
  agent->handle_dataplane_down(now);
  up();
  collect();
  EXPECT_EQ(requests.size(), 2u);
  portal.clear();
  answer("198.51.100.20:3478", "198.51.100.40:61000", true);  // not our transaction
  EXPECT_THAT(own(), ElementsAre("198.51.100.194:51820"));
  answer("198.51.100.20:3478", "198.51.100.40:61000");
  EXPECT_THAT(own(), ElementsAre("198.51.100.40:61000", "198.51.100.194:51820"));
  ASSERT_FALSE(portal.empty());
  EXPECT_EQ(portal.back().candidates().candidates_size(), 2);
  answer("198.51.100.21:3478", "198.51.100.40:61000");  // the same address is one candidate
  EXPECT_EQ(own().size(), 2u);
  EXPECT_EQ(suspected, 0);
  // The tick of the data plane sees a change first. The stream to the portal went through the same NAT.
  v1::Event event;
  *event.mutable_mapped_address_changed()->mutable_server() = to_proto(*Endpoint::parse("198.51.100.20:3478"));
  *event.mutable_mapped_address_changed()->mutable_mapped() = to_proto(*Endpoint::parse("198.51.100.40:62000"));
  agent->handle_event(event, now);
  run();
  EXPECT_THAT(own(), ElementsAre("198.51.100.40:62000", "198.51.100.40:61000", "198.51.100.194:51820"));
  EXPECT_EQ(suspected, 1);
  agent->handle_event(event, now);  // the same again is no news
  run();
  EXPECT_EQ(suspected, 1);
  event.mutable_mapped_address_changed()->clear_mapped();
  agent->handle_event(event, now);
  run();
  EXPECT_THAT(own(), ElementsAre("198.51.100.40:61000", "198.51.100.194:51820"));
  EXPECT_EQ(suspected, 1);
}

TEST_F(Reflexive, ASilentServerIsAskedAgainAndForgotten) {
  agent->handle_dataplane_down(now);
  up();
  collect();
  answer("198.51.100.20:3478", "198.51.100.40:61000");
  advance(5min);
  collect();
  EXPECT_THAT(own(), ElementsAre("198.51.100.194:51820"));
  EXPECT_GT(requests.size(), 20u);
  EXPECT_LT(requests.size(), 150u);
  for (const std::size_t before = requests.size(); requests.size() == before; collect()) advance(1s);
  answer("198.51.100.21:3478", "198.51.100.40:65000");
  EXPECT_EQ(own().front(), "198.51.100.40:65000");
}

TEST_F(Reflexive, ChangesReachConnectedClientsInTheTunnelToo) {
  offer({"198.51.100.30:7000"});
  session_up(1);
  agent->handle_portal_disconnected(now);
  controls.clear();
  agent->handle_dataplane_down(now);
  up();
  collect();
  answer("198.51.100.20:3478", "198.51.100.40:61000");
  ASSERT_FALSE(controls.empty());
  EXPECT_EQ(controls.back().second.candidates().candidates_size(), 2);
}

}  // namespace
}  // namespace penstock::gateway_agent
