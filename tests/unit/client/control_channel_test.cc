// In-tunnel requests: repeated until answered, while a session is up, and never for ever.
#include "controlplane/core/client_agent/control_channel.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <optional>

#include "tests/unit/client/packets.h"

namespace penstock::client {
namespace {

using namespace std::chrono_literals;
using testing::CountingRandom;

v1::Control read(const std::vector<std::uint8_t>& packet) {
  const auto control = wireguard::parse_control(packet);
  v1::Control message;
  const bool right = control && control->direction == wireguard::ControlDirection::to_gateway &&
                     control->type == wireguard::ControlType::message &&
                     message.ParseFromArray(control->payload.data() + 1, static_cast<int>(control->payload.size() - 1));
  EXPECT_TRUE(right);
  return message;
}

v1::Control resolve(const std::string& name) {
  v1::Control message;
  message.mutable_resolve_name()->set_name(name);
  return message;
}

class Channel : public ::testing::Test {
 protected:
  // Everything there is to send, as messages.
  std::vector<v1::Control> sent() {
    std::vector<v1::Control> out;
    while (const auto packet = channel.poll_packet()) out.push_back(read(*packet));
    return out;
  }
  ControlChannel::Received receive(const v1::Control& message) {
    const std::string bytes = message.SerializeAsString();
    return channel.handle_payload({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}, now);
  }
  CountingRandom random;
  ControlChannel channel{random};
  Instant now{1h};
};

TEST_F(Channel, RepeatsTheSameRequestUntilItIsAnswered) {  // trap: flow-4
  channel.session_up(now);
  ASSERT_TRUE(channel.request("a", resolve("a"), now, 60s));
  ASSERT_TRUE(channel.request("a", resolve("a"), now, 60s));  // under way already
  const auto first = sent();
  ASSERT_EQ(first.size(), 1U);
  std::size_t repeats = 0;
  for (const Instant end = now + 10s; now < end;) {
    now = channel.next_deadline();
    channel.handle_timeout(now);
    for (const v1::Control& again : sent()) {
      ++repeats;
      EXPECT_EQ(again.SerializeAsString(), first[0].SerializeAsString());
    }
  }
  EXPECT_GE(repeats, 5U);
  EXPECT_LE(repeats, 9U);
  v1::Control reply;
  reply.set_id(first[0].id());
  reply.set_reply(true);
  reply.mutable_acknowledge();
  const auto received = receive(reply);
  ASSERT_TRUE(std::holds_alternative<ControlChannel::Reply>(received));
  EXPECT_EQ(std::get<ControlChannel::Reply>(received).key, "a");
  EXPECT_EQ(channel.next_deadline(), kNever);
  // The answer to a repetition is nobody's any more.
  EXPECT_TRUE(std::holds_alternative<DropReason>(receive(reply)));
}

TEST_F(Channel, WaitsForASessionAndSaysEverythingAgainInANewOne) {
  ASSERT_TRUE(channel.request("a", resolve("a"), now, 60s));
  EXPECT_TRUE(sent().empty());
  channel.session_up(now);
  EXPECT_EQ(sent().size(), 1U);
  channel.session_down();
  now += 5s;
  channel.handle_timeout(now);
  EXPECT_TRUE(sent().empty());
  channel.session_up(now);
  EXPECT_EQ(sent().size(), 1U);
}

TEST_F(Channel, WhatWentAWayThatIsLeftIsSaidAgain) {
  channel.session_up(now);
  ASSERT_TRUE(channel.request("a", resolve("a"), now, 60s));
  EXPECT_EQ(sent().size(), 1U);
  channel.way_changed(now);  // it went the new one already
  EXPECT_TRUE(sent().empty());
  now += 20ms;
  channel.way_changed(now);
  EXPECT_EQ(sent().size(), 1U);
  channel.session_down();
  now += 20ms;
  channel.way_changed(now);
  EXPECT_TRUE(sent().empty());
}

TEST_F(Channel, GivesUpInTheEndAndIsBounded) {
  channel.session_up(now);
  for (std::size_t i = 0; i < ControlChannel::kMaxRequests; ++i)
    ASSERT_TRUE(channel.request(std::to_string(i), resolve("x"), now, 5s));
  EXPECT_FALSE(channel.request("one more", resolve("x"), now, 5s));
  channel.cancel("7");
  EXPECT_FALSE(channel.pending("7"));
  channel.handle_timeout(now + 5s);
  std::size_t given_up = 0;
  while (channel.poll_given_up()) ++given_up;
  EXPECT_EQ(given_up, ControlChannel::kMaxRequests - 1);
  EXPECT_EQ(channel.pending(), 0U);
}

TEST_F(Channel, PiecesAreJoinedInAnyOrderAndOddOnesIgnored) {  // trap: dns-7
  EXPECT_TRUE(rc::check("any order, any repetition", [this] {
    const auto count = *rc::gen::inRange<std::size_t>(2, 65);
    const auto pieces = *rc::gen::container<std::vector<std::string>>(count, rc::gen::nonEmpty<std::string>());
    channel = ControlChannel(random);
    channel.session_up(now);
    v1::Control query;
    query.mutable_dns_query();
    RC_ASSERT(channel.request("q", query, now, 5s));
    const auto id = sent().at(0).id();
    std::vector<std::size_t> order(pieces.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[random.below(static_cast<std::uint32_t>(i))]);
    order.insert(order.begin(), order.back());  // one comes twice
    std::optional<std::string> whole;
    for (const std::size_t i : order) {
      v1::Control reply;
      reply.set_id(id);
      reply.set_reply(true);
      reply.mutable_dns_answer()->set_piece(static_cast<std::uint32_t>(i));
      reply.mutable_dns_answer()->set_pieces(static_cast<std::uint32_t>(pieces.size()));
      reply.mutable_dns_answer()->set_message(pieces[i]);
      v1::Control odd = reply;
      odd.mutable_dns_answer()->set_piece(1000);
      if (!whole) RC_ASSERT(std::holds_alternative<DropReason>(receive(odd)));
      const auto received = receive(reply);
      if (const auto* joined = std::get_if<ControlChannel::Reply>(&received))
        whole = joined->message.dns_answer().message();
    }
    std::string expected;
    for (const std::string& piece : pieces) expected += piece;
    RC_ASSERT(whole.has_value());
    RC_ASSERT(*whole == expected);
  }));
}

TEST_F(Channel, MalformedBytesAreADrop) {
  const std::vector<std::uint8_t> garbage = {0xff, 0xff, 0xff};
  const auto received = channel.handle_payload(garbage, now);
  ASSERT_TRUE(std::holds_alternative<DropReason>(received));
  EXPECT_EQ(std::get<DropReason>(received), DropReason::control_malformed);
}

}  // namespace
}  // namespace penstock::client
