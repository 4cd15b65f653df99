// How often a client may ask, and what becomes of requests that come again.
#include "tests/unit/portal/broker_bench.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;

TEST(BrokerRequests, AsksForAResourceAtMostOnceInTwoSeconds) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  bench.request(alice, {.id = "a"});
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_OFFLINE);
  bench.advance(1500ms);
  bench.request(alice, {.id = "b"});
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_RATE_LIMITED);
  bench.request(alice, {.resource = "corp", .id = "c"});  // each resource by itself
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_OFFLINE);
  bench.advance(500ms);
  bench.request(alice, {.id = "d"});
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_OFFLINE);
}

// trap: flow-18
TEST(BrokerRequests, RepeatedRequestsDoNotPileUp) {
  Bench bench;
  const auto gateway = bench.join_gateway("gw1");
  const auto alice = bench.join_client("alice");
  for (int i = 0; i < 100; ++i) bench.request(alice, {.id = "same"});
  EXPECT_EQ(bench.broker->pending_count(), 1u);
  EXPECT_EQ(bench.to_gateway[gateway].size(), 2u);  // Welcome and one Authorize
  bench.advance(2s);
  bench.request(alice, {.id = "newer"});  // what the client knows by now counts
  EXPECT_EQ(bench.broker->pending_count(), 1u);
  bench.answer(gateway);
  ASSERT_NE(bench.granted(alice), nullptr);
  EXPECT_EQ(bench.granted(alice)->request_id(), "newer");
  bench.advance(10s);
  EXPECT_EQ(bench.count_client(alice, [](const auto& m) { return m.has_connection_refused(); }), 0u);
}

// What is under way may wait for just the gateway that is lost. Names that are nobody's are no way around the limit.
TEST(BrokerRequests, AGatewayThatIsNamedUnreachableForTheFirstTimeIsHeardAtOnce) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  bench.join_gateway("gw1");
  bench.request(alice, {.id = "a"});
  const auto gateway2 = bench.join_gateway("gw2");
  bench.advance(500ms);
  bench.request(alice, {.id = "b", .unreachable = {"none"}});
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_RATE_LIMITED);
  bench.request(alice, {.id = "c", .unreachable = {"gw1"}});
  bench.answer(gateway2);
  ASSERT_NE(bench.granted(alice), nullptr);
  EXPECT_EQ(bench.granted(alice)->request_id(), "c");
  EXPECT_EQ(bench.granted(alice)->gateway(), "gw2");
  bench.request(alice, {.id = "d", .unreachable = {"gw1"}});
  EXPECT_EQ(bench.refusal(alice).request_id(), "d");
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_RATE_LIMITED);
}

// A client dials a second stream when it doubts the first; what was answered on that one is lost.
TEST(BrokerRequests, ARequestThatIsRepeatedOverAnotherStreamIsAnsweredThere) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.id = "q"});
  v1::GatewayToPortal load;
  load.mutable_load()->set_peers(50);
  bench.broker->handle_message(gateway, load, bench.now);
  bench.join_gateway("gw2");  // with less to do
  const auto again = bench.join_client("alice");
  bench.request(again, {.id = "q"});
  bench.answer(gateway);
  ASSERT_NE(bench.granted(again), nullptr);
  EXPECT_EQ(bench.granted(again)->request_id(), "q");
  EXPECT_EQ(bench.granted(again)->gateway(), "gw1");
  for (int i = 0; i < 10; ++i) {  // not a way around the limit
    bench.request(again, {.id = "q"});
    bench.answer(gateway);
  }
  EXPECT_EQ(bench.refusal(again).reason(), v1::REFUSAL_REASON_RATE_LIMITED);
}

TEST(BrokerRequests, WhoWasRefusedForWantOfAGatewayHearsThatOneIsThere) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  const auto changes = [&] {
    return bench.count_client(alice, [](const v1::PortalToClient& message) {
      return message.has_resource_change() && message.resource_change().upserted_size() == 1 &&
             message.resource_change().upserted(0).id() == "printer" && message.resource_change().removed_size() == 0;
    });
  };
  bench.join_gateway("gw1");
  EXPECT_EQ(changes(), 0u);  // nobody was refused
  bench.broker->handle_disconnected(2, bench.now);
  bench.request(alice, {});
  ASSERT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_OFFLINE);
  const auto back = bench.join_gateway("gw1");
  EXPECT_EQ(changes(), 1u);
  bench.broker->handle_disconnected(back, bench.now);
  bench.join_gateway("gw1");
  EXPECT_EQ(changes(), 1u);  // said once
}

}  // namespace
}  // namespace penstock::broker
