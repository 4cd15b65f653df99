// Packets of names that the control process is still resolving.
#include <gtest/gtest.h>

#include "dataplane/gateway/slow_path.h"
#include "tests/unit/gateway/world.h"

namespace penstock::gateway::test {
namespace {

// --- Names

struct NamesTest : testing::Test {
  World world;
  const IpAddress proxy4 = ip("100.96.0.9"), proxy6 = ip("fd00:2021:1111:8000::9");

  void publish(policy::TranslationState state, const IpAddress& real = {}) {
    auto policy = world.client.policy();
    add_name(*policy, "v4", world.names.only_v4_as_v4, world.names.only_v4_as_v6, kServer4);
    add_name(*policy, "new", proxy4, proxy6, real, state);
    world.gateway.publish(std::move(policy));
    world.gateway.run(20ms);
  }
  void SetUp() override {
    world.client.connect();
    publish(policy::TranslationState::resolving);
  }
};

TEST_F(NamesTest, PacketsWaitAndGoInOrder) {
  for (std::uint8_t i = 0; i < 5; ++i) world.client.send(udp_packet({world.client.tunnel_v4, 5}, {proxy4, 53}, {i}));
  world.client.send(udp_packet({world.client.tunnel_v6, 5}, {proxy6, 53}, {9}));
  EXPECT_EQ(world.gateway.slow->held(), 6U);
  EXPECT_EQ(events_of<TranslationWanted>(world.gateway).size(), 2U) << "once for each address";
  // trap: flow-1: a refresh that changes nothing keeps them.
  publish(policy::TranslationState::resolving);
  EXPECT_EQ(world.gateway.slow->held(), 6U);
  // trap: flow-2: live flows of other names go on.
  world.client.send(echo_request(world.client.tunnel_v4, world.names.only_v4_as_v4));
  world.gateway.run(20ms);
  EXPECT_EQ(world.server.received.size(), 1U);
  world.server.received.clear();
  publish(policy::TranslationState::active, kServer4);
  EXPECT_EQ(world.gateway.slow->held(), 0U);
  ASSERT_EQ(world.server.received.size(), 6U);
  for (std::uint8_t i = 0; i < 5; ++i) EXPECT_EQ(world.server.received[i].back(), i);
}

// trap: flow-7
TEST_F(NamesTest, RetransmissionsAreKeptOnce) {
  for (int i = 0; i < 10; ++i) world.client.send(tcp_packet({world.client.tunnel_v4, 5}, {proxy4, 80}, tcp_flag::syn));
  EXPECT_EQ(world.gateway.slow->held(), 1U);
  publish(policy::TranslationState::active, kServer4);
  EXPECT_EQ(world.server.received.size(), 1U);
}

TEST_F(NamesTest, FailureIsAnsweredAtOnceAndRightly) {
  const struct {
    policy::TranslationState state;
    int code4, code6;
  } cases[] = {{policy::TranslationState::no_such_name, 1, 3},
               {policy::TranslationState::failed, 1, 3},
               {policy::TranslationState::forbidden, 13, 1}};
  for (const auto& c : cases) {
    publish(policy::TranslationState::resolving);
    world.client.received.clear();
    world.client.send(tcp_packet({world.client.tunnel_v4, 5}, {proxy4, 80}, tcp_flag::syn));
    world.client.send(tcp_packet({world.client.tunnel_v6, 5}, {proxy6, 80}, tcp_flag::syn));
    publish(c.state);
    ASSERT_EQ(world.client.received.size(), 2U);
    for (const Octets& error : world.client.received) {
      const bool four = error[0] >> 4 == 4;
      EXPECT_EQ(error[four ? 20 : 40], four ? icmp4::unreachable : icmp6::unreachable);
      EXPECT_EQ(error[four ? 21 : 41], four ? c.code4 : c.code6);  // trap: nat-17
    }
    world.gateway.run(2s);  // the rate limit of errors fills again
  }
}

TEST_F(NamesTest, WaitingEndsByItself) {
  world.client.send(tcp_packet({world.client.tunnel_v4, 5}, {proxy4, 80}, tcp_flag::syn));
  world.client.send(tcp_packet({world.client.tunnel_v6, 5}, {proxy6, 80}, tcp_flag::syn));
  world.gateway.run(13s);
  EXPECT_EQ(world.gateway.slow->held(), 0U);
  EXPECT_EQ(world.gateway.drops(DropReason::name_wait_timeout), 2U);
  EXPECT_EQ(world.client.received.size(), 2U);
}

TEST_F(NamesTest, QueuesAreBoundedPerName) {
  for (std::uint8_t i = 0; i < 100; ++i) world.client.send(udp_packet({world.client.tunnel_v4, 5}, {proxy4, 53}, {i}));
  EXPECT_EQ(world.gateway.slow->held(), 32U);
  EXPECT_EQ(world.gateway.drops(DropReason::name_wait_full), 68U);
  EXPECT_LE(events_of<TranslationWanted>(world.gateway).size(), 2U);
}

TEST_F(NamesTest, APeerWithoutPolicyWaitsForNothing) {
  world.client.send(udp_packet({world.client.tunnel_v4, 5}, {proxy4, 53}, {1}));
  EXPECT_EQ(world.gateway.slow->held(), 1U);
  world.gateway.policies.publish(world.client.peer, nullptr);
  world.gateway.slow->policy_published(world.client.peer, world.gateway.now());
  world.gateway.settle();
  EXPECT_EQ(world.gateway.slow->held(), 0U);
}

// A packet may overtake the message that names its destination.
TEST_F(NamesTest, AnUnknownNameIsAskedForAndWaitedForShortly) {
  const IpAddress early = ip("100.96.7.7");
  world.client.send(udp_packet({world.client.tunnel_v4, 5}, {early, 53}, {1}));
  world.client.send(udp_packet({world.client.tunnel_v4, 5}, {early, 53}, {2}));
  const auto wanted = events_of<TranslationWanted>(world.gateway);
  ASSERT_EQ(wanted.size(), 1U);
  EXPECT_EQ(wanted[0].proxy_address, early);
  EXPECT_EQ(wanted[0].key, world.client.device().public_key().bytes);
  publish(policy::TranslationState::resolving);  // of another name
  EXPECT_EQ(world.gateway.slow->held(), 2U);
  auto policy = world.client.policy();
  add_name(*policy, "early", early, IpAddress{}, kServer4);
  world.gateway.publish(std::move(policy));
  world.gateway.run(10ms);
  EXPECT_EQ(world.server.received.size(), 2U);
  world.client.send(udp_packet({world.client.tunnel_v4, 5}, {ip("100.96.8.8"), 53}, {1}));
  world.gateway.run(4s);
  EXPECT_EQ(world.gateway.slow->held(), 0U);
  EXPECT_EQ(world.gateway.drops(DropReason::name_wait_timeout), 1U);
}

TEST(Names, PeersWithoutControlAreRefusedAndReportedWithinLimits) {
  World world;
  auto policy = world.client.policy();
  policy->control = false;
  world.gateway.publish(std::move(policy));
  world.client.connect();
  for (int i = 0; i < 500; ++i) world.client.send(echo_request(world.client.tunnel_v4, ip("100.96.7.7")));
  EXPECT_EQ(world.gateway.drops(DropReason::name_unknown), 500U);
  EXPECT_LE(events_of<TranslationWanted>(world.gateway).size(), 130U);
  EXPECT_FALSE(world.client.received.empty());
}

}  // namespace
}  // namespace penstock::gateway::test
