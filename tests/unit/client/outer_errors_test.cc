// ICMP errors about the datagrams around the tunnel: a hint when they quote what a live session has sent lately.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "dataplane/core/stun/message.h"
#include "tests/unit/client/agent_fixture.h"

namespace penstock::client {
namespace {

class OuterErrors : public Agent {
 protected:
  void SetUp() override {
    Agent::SetUp();
    net.drop = [this](Bytes sent) {
      latest.assign(sent.begin(), sent.end());
      ++count;
      return lost;
    };
    connect();
    for (int i = 0; i < 10; ++i) {
      net.send(datagram("203.0.113.7", "busy"));
      net.advance(100ms);
    }
    net.send(datagram("203.0.113.7", "the latest"));
  }
  // Datagrams sent by the agent because of it.
  std::size_t sent_after(Bytes quoted, const Endpoint& remote) {
    const std::size_t before = count;
    believed = net.agent->handle_unreachable(quoted, remote, net.now);
    net.pump();
    net.advance(Duration{});  // what is due now
    return count - before;
  }
  [[nodiscard]] std::uint64_t unmatched() const { return net.agent->drops(DropReason::icmp_error_unmatched); }

  std::vector<std::uint8_t> latest;
  std::size_t count = 0;
  bool lost = false;
  bool believed = false;
};

TEST_F(OuterErrors, OneThatQuotesALiveSessionMakesThePathSuspect) {
  lost = true;  // the gateway's NAT has forgotten us
  EXPECT_GT(sent_after(latest, net.gw().endpoint), 0U);  // at once: a probe, and the resends
  EXPECT_TRUE(believed);
  // A router need not quote more than the message's header.
  EXPECT_TRUE(net.agent->handle_unreachable(Bytes{latest}.first(16), net.gw().endpoint, net.now));
  EXPECT_EQ(unmatched(), 0U);
  v1::StatusReply status;
  net.agent->show_status(status, net.now);
  bool shown = false;
  for (const auto& line : status.lines())
    shown = shown || (line.key() == "network errors" && line.value() == "2 believed, 0 not about live sessions");
  EXPECT_TRUE(shown);
}

// No proof: the path is in use as before once it has answered, and nothing was asked of the portal.
TEST_F(OuterErrors, IsNoProof) {
  const std::size_t requests = net.requests.size();
  EXPECT_GT(sent_after(latest, net.gw().endpoint), 0U);
  const std::size_t packets = net.gw().packets.size();
  net.send(datagram("203.0.113.7", "goes on"));
  EXPECT_EQ(net.gw().packets.size(), packets + 1);
  net.advance(1s);
  EXPECT_EQ(net.requests.size(), requests);
  // Somebody who sends many of them causes no more than one look every two seconds.
  std::size_t looks = 0;
  for (int i = 0; i < 100; ++i) {
    net.advance(1ms);
    looks += sent_after(latest, net.gw().endpoint) > 0 ? 1 : 0;
  }
  EXPECT_LE(looks, 1U);
}

TEST_F(OuterErrors, WhatDoesNotQuoteUsIsIgnored) {
  struct Case {
    const char* what;
    std::function<void(std::vector<std::uint8_t>&)> change;
  };
  const Case cases[] = {
      {"nothing quoted", [](auto& q) { q.clear(); }},
      {"too little quoted", [](auto& q) { q.resize(15); }},
      {"another receiver", [](auto& q) { q[5] ^= 1; }},
      {"another kind of message", [](auto& q) { q[0] = 1; }},
      {"a counter never used", [](auto& q) { q[12] = 1; }},
      {"channel data of nothing", [](auto& q) { q = {0x40, 0, 0, 0}; }},
      {"a STUN request", [](auto& q) { q = {0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}; }},
      {"a Send indication that ends early",
       [](auto& q) {
         q = {0, 0x16, 0, 60, 0x21, 0x12, 0xa4, 0x42};
         q.resize(26);
         q[25] = 2;
       }},
  };
  std::uint64_t ignored = 0;
  for (const Case& c : cases) {
    std::vector<std::uint8_t> quoted = latest;
    c.change(quoted);
    EXPECT_EQ(sent_after(quoted, net.gw().endpoint), 0U) << c.what;
    EXPECT_FALSE(believed) << c.what;
    EXPECT_EQ(unmatched(), ++ignored) << c.what;
  }
}

// A counter of long ago may have been seen by anybody since.
TEST_F(OuterErrors, AnOldCounterIsIgnored) {
  const std::vector<std::uint8_t> old = latest;
  for (int i = 0; i < 9000; ++i) net.send(datagram("203.0.113.7", "more"));
  EXPECT_FALSE(net.agent->handle_unreachable(old, net.gw().endpoint, net.now));
  EXPECT_TRUE(net.agent->handle_unreachable(latest, net.gw().endpoint, net.now));
}

// Through a relay the message lies in an envelope, whose length field counts more than is quoted.
TEST_F(OuterErrors, AreLookedForInARelaysEnvelope) {
  std::vector<std::uint8_t> channel = {0x40, 0x01, 0x05, 0x00};
  channel.insert(channel.end(), latest.begin(), latest.begin() + 16);
  EXPECT_TRUE(net.agent->handle_unreachable(channel, *Endpoint::parse("198.51.100.20:3478"), net.now));
  for (const bool v6 : {false, true}) {
    std::vector<std::uint8_t> indication(v6 ? stun::kIndicationOverheadV6 : stun::kIndicationOverheadV4);
    const std::uint8_t head[] = {0, 0x16, 5, 0, 0x21, 0x12, 0xa4, 0x42};
    std::copy(std::begin(head), std::end(head), indication.begin());
    indication[21] = 0x12;
    indication[23] = v6 ? 20 : 8;
    indication[25] = v6 ? 2 : 1;
    indication.insert(indication.end(), latest.begin(), latest.end());
    EXPECT_TRUE(net.agent->handle_unreachable(indication, *Endpoint::parse("198.51.100.20:3478"), net.now)) << v6;
  }
}

// Protocol 1.0 repairs nothing.
TEST(OuterErrorsEager, AreIgnored) {
  Network net{ProtocolVersion{1, 0}};
  EXPECT_FALSE(net.agent->handle_unreachable({}, net.gw().endpoint, net.now));
}

RC_GTEST_PROP(OuterErrorsAny, AnythingQuotedIsSurvived, (const std::vector<std::uint8_t>& quoted)) {
  Network net;
  RC_ASSERT(!net.agent->handle_unreachable(quoted, net.gw().endpoint, net.now));
}

}  // namespace
}  // namespace penstock::client
