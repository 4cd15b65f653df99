// Candidates through the broker: whose reach whom, and how many.
#include <gmock/gmock.h>

#include "tests/unit/portal/broker_bench.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;

// trap: paths-3
TEST(Broker, CandidatesTravelWithEveryRequestAndAreBounded) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.candidates = {"198.51.100.130:7000"}});
  EXPECT_EQ(bench.authorize(gateway)->candidates_size(), 1);
  bench.advance(2s);
  std::vector<std::string> many = {"0.0.0.0:1", "224.0.0.1:5000", "[ff02::1]:5000"};
  for (int i = 0; i < 30; ++i) many.push_back("198.51.100.130:" + std::to_string(7000 + i));
  bench.request(alice, {.id = "q2", .candidates = many});
  ASSERT_EQ(bench.authorize(gateway)->candidates_size(), static_cast<int>(kMaxCandidates));
  EXPECT_EQ(from_proto(bench.authorize(gateway)->candidates(0).endpoint())->to_string(), "198.51.100.130:7000");
}

TEST(Broker, CandidatesAreTrickledBothWaysButOnlyBetweenThoseWhoMayMeet) {
  Bench bench;
  const auto gateway = bench.join_gateway("gw1");
  const auto alice = bench.join_client("alice");
  v1::ClientToPortal update;
  update.mutable_candidate_update()->set_gateway("gw1");
  *update.mutable_candidate_update()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.20:49152"), v1::CANDIDATE_KIND_RELAYED);
  const auto updates = [&] {
    std::size_t count = 0;
    for (const auto& message : bench.to_gateway[gateway]) count += message.has_candidate_update() ? 1 : 0;
    return count;
  };
  bench.broker->handle_message(alice, update, bench.now);
  bench.drain();
  EXPECT_EQ(updates(), 0u);  // no business with it yet
  bench.request(alice, {});
  bench.answer(gateway);
  bench.broker->handle_message(alice, update, bench.now);
  bench.drain();
  ASSERT_EQ(updates(), 1u);
  EXPECT_EQ(bench.to_gateway[gateway].back().candidate_update().client_public_key(), as_text(key_of(1)));
  for (int i = 0; i < 1000; ++i) bench.broker->handle_message(alice, update, bench.now);
  bench.drain();
  EXPECT_LE(updates(), 20u);

  v1::GatewayToPortal mine;
  *mine.mutable_candidates()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.40:61000"), v1::CANDIDATE_KIND_SERVER_REFLEXIVE);
  bench.broker->handle_message(gateway, mine, bench.now);
  bench.drain();
  ASSERT_TRUE(bench.to_client[alice].back().has_candidate_update());
  EXPECT_EQ(bench.to_client[alice].back().candidate_update().gateway(), "gw1");
}

// A gateway whose stream was away (its NAT forgot) learns from its Welcome where clients are now, not where they were
// when they asked.
TEST(Broker, AGatewaysWelcomeNamesTheLatestCandidates) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.candidates = {"198.51.100.130:7000"}});
  bench.answer(gateway);
  bench.broker->handle_disconnected(gateway, bench.now);
  v1::ClientToPortal update;
  update.mutable_candidate_update()->set_gateway("gw1");
  *update.mutable_candidate_update()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.20:49153"), v1::CANDIDATE_KIND_RELAYED);
  bench.broker->handle_message(alice, update, bench.now);
  bench.drain();
  const auto again = bench.join_gateway("gw1");
  const v1::GatewayWelcome& welcome = bench.gateway_welcome(again);
  ASSERT_EQ(welcome.authorisations_size(), 1);
  ASSERT_EQ(welcome.authorisations(0).candidates_size(), 1);
  EXPECT_EQ(from_proto(welcome.authorisations(0).candidates(0).endpoint())->to_string(), "198.51.100.20:49153");
}

// What a gateway said while the client's stream was broken without anybody knowing went nowhere.
TEST(Broker, AClientThatDialsAgainHearsWhereItsGatewaysAre) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {});
  bench.answer(gateway);
  v1::GatewayToPortal mine;
  *mine.mutable_candidates()->add_candidates() =
      to_proto(*Endpoint::parse("198.51.100.41:61000"), v1::CANDIDATE_KIND_SERVER_REFLEXIVE);
  bench.broker->handle_message(gateway, mine, bench.now);
  bench.drain();
  const auto again = bench.join_client("alice");
  const auto& told = bench.to_client[again].back();
  ASSERT_TRUE(told.has_candidate_update());
  EXPECT_EQ(told.candidate_update().gateway(), "gw1");
  std::vector<std::string> candidates;
  for (const v1::Candidate& candidate : told.candidate_update().candidates())
    candidates.push_back(from_proto(candidate.endpoint())->to_string());
  // Besides what the portal saw.
  EXPECT_THAT(candidates, testing::UnorderedElementsAre("198.51.100.41:61000", "198.51.100.40:51820"));
}

// A client's relays can let a gateway in before that one has answered: its addresses are told when it is asked.
TEST(Broker, TheClientHearsWhichGatewayIsAskedForIt) {
  Bench bench;
  const auto first = bench.join_gateway("gw1", 101);
  bench.join_gateway("gw2", 102);
  const auto alice = bench.join_client("alice");
  const auto told = [&](ConnectionId connection) {
    std::vector<std::string> gateways;
    for (const auto& message : bench.to_client[connection]) {
      if (!message.has_candidate_update()) continue;
      EXPECT_GT(message.candidate_update().candidates_size(), 0);
      gateways.push_back(message.candidate_update().gateway());
    }
    return gateways;
  };
  bench.request(alice, {.id = "q1"});
  ASSERT_EQ(bench.granted(alice), nullptr);
  EXPECT_THAT(told(alice), testing::ElementsAre("gw1"));
  bench.answer(first, false, "full");  // and the next one
  EXPECT_THAT(told(alice), testing::ElementsAre("gw1", "gw2"));

  // Not of a gateway that it reaches already.
  bench.request(alice, {.resource = "vault", .id = "q2", .connected = {"gw1"}});
  EXPECT_EQ(told(alice).size(), 2u);
  // Who may not be let in hears nothing.
  const auto bob = bench.join_client("bob", 2);
  bench.request(bob, {.id = "q3"});
  EXPECT_THAT(told(bob), testing::IsEmpty());
}

TEST(Broker, AnEagerClientHearsOfGrantedGatewaysOnly) {
  Bench bench;
  const auto gateway = bench.join_gateway("gw1");
  const auto alice = bench.join_client("alice", 1, "198.51.100.30:50000", {1, 0});
  bench.request(alice, {});
  bench.answer(gateway);
  ASSERT_NE(bench.granted(alice), nullptr);
  EXPECT_EQ(bench.count_client(alice, [](const auto& message) { return message.has_candidate_update(); }), 0u);
}

}  // namespace
}  // namespace penstock::broker
