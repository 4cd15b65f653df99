// Moves of a TURN allocation (RFC 8016) whose answer is lost, garbled or a refusal that is not meant.
#include <gtest/gtest.h>

#include "tests/unit/paths/turn_bench.h"

namespace penstock::paths {
namespace {

// The relay has moved the allocation and its answer is lost, once or several times: the request that comes again carries
// the ticket that was used up, from where the allocation stands now. Nothing is made anew (RFC 8016 §3.2).
TEST_F(TurnClientTest, AMoveWhoseAnswerIsLostKeepsTheAllocation) {
  for (const Duration deaf_for : {50ms, 400ms, 3000ms}) {
    make_server();
    make_client().start(now());
    client->permit(kPeer.address, now());
    run(1s);
    const Endpoint relayed = client->relayed();
    const std::uint32_t number = client->number();
    events.clear();
    received.clear();
    client_address.port = static_cast<std::uint16_t>(client_address.port + 1);
    client->handle_local_change(now());
    server_to_client = false;
    run(deaf_for);
    ASSERT_EQ(server->statistics().moves, 1u);
    ASSERT_EQ(count(TurnEvent::Kind::moved), 0u);
    server_to_client = true;
    run(4s);
    EXPECT_EQ(count(TurnEvent::Kind::moved), 1u);
    EXPECT_EQ(count(TurnEvent::Kind::lost), 0u);
    EXPECT_EQ(client->number(), number);
    EXPECT_EQ(client->relayed(), relayed);
    send_from_peer(kPeer, {1});
    run(50ms);
    EXPECT_EQ(received.size(), 1u);
    // The next one is made with the ticket that came at last.
    client_address.port = static_cast<std::uint16_t>(client_address.port + 1);
    client->handle_local_change(now());
    run(1s);
    EXPECT_EQ(client->allocations(), 1u);
    EXPECT_EQ(server->statistics().moves, 2u);
  }
}

// ... and when the nonce went stale meanwhile.
TEST_F(TurnClientTest, AMoveWhoseAnswerIsLostKeepsTheAllocationOverANewNonce) {
  server->config().nonce_lifetime = 60s;
  make_client().start(now());
  run(59s + 900ms);
  client_address.port = 41111;
  client->handle_local_change(now());
  server_to_client = false;
  run(50ms);
  ASSERT_EQ(server->statistics().moves, 1u);
  run(1s);
  server_to_client = true;
  run(4s);
  EXPECT_EQ(count(TurnEvent::Kind::moved), 1u);
  EXPECT_EQ(client->allocations(), 1u);
}

// We moved again before the answer: from here the relay no longer knows the only ticket that we have. Another allocation
// then, at once.
TEST_F(TurnClientTest, AMoveWhoseAnswerIsLostBeforeTheNextMove) {
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(1s);
  client_address.port = 41111;
  client->handle_local_change(now());
  server_to_client = false;
  run(50ms);
  ASSERT_EQ(server->statistics().moves, 1u);
  server_to_client = true;
  client_address.port = 41112;
  client->handle_local_change(now());
  run(200ms);
  EXPECT_EQ(client->state(), TurnClient::State::allocated);
  EXPECT_EQ(client->allocations(), 2u);
  EXPECT_TRUE(client->can_send(kPeer.address, now()));
}

// coturn 4.6.1 answers a move with a few bytes that mean nothing, and well when it is asked again: at once, not when the
// request's time is over.
TEST_F(TurnClientTest, AGarbledAnswerToAMoveIsAskedForAgainAtOnce) {
  server->config().garbles_moves = true;
  make_client().start(now());
  client->permit(kPeer.address, now());
  run(1s);
  for (std::uint16_t i = 1; i <= 3; ++i) {
    client_address.port = static_cast<std::uint16_t>(42000 + i);
    client->handle_local_change(now());
    run(2 * 2 * latency + 1ms);
    EXPECT_EQ(count(TurnEvent::Kind::moved), i);
    run(1s);
  }
  EXPECT_EQ(client->allocations(), 1u);
  EXPECT_EQ(server->statistics().moves, 3u);
  // Whoever sends us rubbish in the relay's name makes us ask no more often than that.
  client_address.port = 43000;
  client->handle_local_change(now());
  drain_client();
  server_to_client = false;
  const std::size_t before = sent;
  const std::uint8_t rubbish[20] = {8};
  for (int i = 0; i < 20; ++i) {
    client->handle_input(rubbish, now());
    run(1ms);
  }
  EXPECT_EQ(sent - before, 1u);
}

// A network that comes up is seen in several steps (address, route, another address), each a change. The request that the
// first one made is asked again, not given up for another: of two with the same ticket coturn 4.6.1 refuses the second for
// a moment (404), and whoever believes that has no relay for a second, until the allocation that was moved is deleted.
TEST_F(TurnClientTest, ChangesInARowMakeOneMove) {
  for (const bool answered : {true, false}) {
    make_server();
    server->config().garbles_moves = !answered;
    server->config().move_takes = 4ms;
    make_client().start(now());
    client->permit(kPeer.address, now());
    run(1s);
    const Endpoint relayed = client->relayed();
    events.clear();
    client_address.port = static_cast<std::uint16_t>(client_address.port + 1);
    for (int i = 0; i < 4; ++i) {
      client->handle_local_change(now());
      run(1ms);
    }
    run(2 * 2 * latency + TurnClient::kMoveSettles);
    EXPECT_EQ(count(TurnEvent::Kind::moved), 1u);
    EXPECT_EQ(client->allocations(), 1u);
    EXPECT_EQ(client->relayed(), relayed);
    EXPECT_TRUE(client->can_send(kPeer.address, now()));
  }
}

// ... also where the first went nowhere, or both came in the same moment: refused once is not yet refused.
TEST_F(TurnClientTest, ACopyOfAMoveIsRefusedForAMoment) {
  for (const Duration takes : {Duration{1ms}, 2 * latency + 5ms, 2 * latency + 15ms}) {
    make_server();
    server->config().garbles_moves = true;
    server->config().move_takes = takes;
    make_client().start(now());
    client->permit(kPeer.address, now());
    run(1s);
    events.clear();
    client_address.port = static_cast<std::uint16_t>(client_address.port + 1);
    client->handle_local_change(now());
    run(3 * 2 * latency + 2 * TurnClient::kMoveSettles);
    EXPECT_EQ(count(TurnEvent::Kind::moved), 1u);
    EXPECT_EQ(client->allocations(), 1u);
    EXPECT_EQ(server->statistics().moves, 1u);
  }
}

// A relay that has forgotten everything says so once, and again: another allocation, without a pause.
TEST_F(TurnClientTest, AMoveThatIsRefusedTwiceIsGivenUp) {
  for (const int changes : {1, 2}) {
    make_server();
    make_client().start(now());
    client->permit(kPeer.address, now());
    run(1s);
    make_server();  // has forgotten
    client_address.port = static_cast<std::uint16_t>(client_address.port + 1);
    for (int i = 0; i < changes; ++i) client->handle_local_change(now());
    run(5 * 2 * latency + 2 * TurnClient::kMoveSettles);  // stale nonce, move, move, allocate, permission
    EXPECT_EQ(client->allocations(), 2u) << changes;
    EXPECT_TRUE(client->can_send(kPeer.address, now()));
  }
}

}  // namespace
}  // namespace penstock::paths
