// Versions at the client: 1.0 (eager, nothing is repaired) beside 1.1, and what an administrator is told of an old
// gateway.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "controlplane/core/dns/query.h"
#include "tests/unit/client/agent_harness.h"

namespace penstock::client {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::kClient4;
using testing::make_udp;
using testing::Network;

constexpr std::uint16_t kA = 1, kAaaa = 28;
constexpr ProtocolVersion kOld{1, 0};

class Eager : public ::testing::Test {
 protected:
  void SetUp() override {
    net.on_request = [this](const v1::RequestConnection& request) { net.grant(request, net.gw()); };
    net.connect({Network::dns_resource("corp", "**.corp.example"), Network::cidr_resource("lan", "192.0.2.0/24")});
  }
  // The address in the answer; "" without one, "nothing" when there is no answer yet.
  std::string ask(const std::string& name, std::uint16_t type = kA) {
    dns::Client client;
    client.remote = *Endpoint::parse("127.0.0.1:4000");
    const std::size_t before = net.dns_answers.size();
    const Bytes now = net.agent->handle_query(Network::query(name, type), client, net.now);
    last.assign(now.begin(), now.end());
    net.pump();
    if (last.empty() && net.dns_answers.size() == before) return "nothing";
    if (last.empty()) last = net.dns_answers.back();
    if (last[7] == 0) return "";
    return IpAddress::from_wire(Bytes{last}.last(type == kA ? 4 : 16)).to_string();
  }
  [[nodiscard]] int rcode() const { return last[3] & 0x0f; }
  void send(const std::string& to, const std::string& text = "x") {
    net.send(make_udp(kClient4, to.c_str(), 4000, 7, text));
  }
  [[nodiscard]] bool logged(const std::string& words) const {
    return std::any_of(net.log.begin(), net.log.end(),
                       [&](const std::string& line) { return line.find(words) != std::string::npos; });
  }
  Network net{kOld};
  std::vector<std::uint8_t> last;
};

TEST_F(Eager, TheQuerySetsTheTunnelUpAndIsAnsweredAfterwards) {
  net.on_request = nullptr;
  EXPECT_EQ(ask("web.corp.example"), "nothing");
  ASSERT_EQ(net.requests.size(), 1U);
  EXPECT_TRUE(net.dns_answers.empty());
  net.grant(net.requests[0], net.gw());
  net.pump();
  EXPECT_EQ(net.gw().initiations, 1);
  EXPECT_EQ(net.gw().resolve_requests, 1);
  ASSERT_EQ(net.dns_answers.size(), 1U);
  const std::string address = ask("web.corp.example");  // and now at once
  EXPECT_EQ(address.substr(0, 4), "100.");
  send(address);
  EXPECT_EQ(net.gw().packets.size(), 1U);
  EXPECT_EQ(net.requests.size(), 1U);
}

TEST_F(Eager, TheHelloSaysSo) {
  Network old{kOld};
  old.agent->handle_portal_connected(old.now);
  const auto hello = old.agent->poll_portal();
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->hello().protocol_version().major(), 1U);
  EXPECT_EQ(hello->hello().protocol_version().minor(), 0U);
}

TEST_F(Eager, DummyAddressesStandForRealOnesOfTheSameFamily) {
  EXPECT_NE(ask("web.corp.example", kA), "");
  EXPECT_EQ(ask("web.corp.example", kAaaa), "");
  EXPECT_EQ(rcode(), 0);
  net.gw().real_addresses = {"2001:db8::80"};
  EXPECT_EQ(ask("six.corp.example", kA), "");
  EXPECT_NE(ask("six.corp.example", kAaaa), "");
  net.gw().real_addresses = {"203.0.113.80", "2001:db8::80"};
  EXPECT_NE(ask("both.corp.example", kA), "");
  EXPECT_NE(ask("both.corp.example", kAaaa), "");
}

TEST_F(Eager, FailuresAreTheQuerysAnswer) {
  net.gw().names["no.corp.example"] = v1::NameStatus::STATE_NO_SUCH_NAME;
  net.gw().names["broken.corp.example"] = v1::NameStatus::STATE_FAILED;
  EXPECT_EQ(ask("no.corp.example"), "");
  EXPECT_EQ(rcode(), 3);
  EXPECT_EQ(ask("broken.corp.example"), "");
  EXPECT_EQ(rcode(), 2);
  net.gw().deaf = true;
  EXPECT_EQ(ask("late.corp.example"), "nothing");
  const std::size_t before = net.dns_answers.size();
  net.advance(4300ms);
  ASSERT_EQ(net.dns_answers.size(), before + 1) << "before the caller gives up";
  EXPECT_EQ(net.dns_answers.back()[3] & 0x0f, 2);
}

// As dig and resolver libraries ask: with a client cookie, without one of ours yet (RFC 7873).
TEST_F(Eager, FailuresCarryTheCookie) {
  net.gw().deaf = true;
  std::vector<std::uint8_t> message = Network::query("late.corp.example", kA);
  const std::uint8_t option[] = {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
  dns::append_opt(message, 0, false, option);
  dns::Client client;
  client.remote = *Endpoint::parse("127.0.0.1:4000");
  EXPECT_TRUE(net.agent->handle_query(message, client, net.now).empty());
  net.advance(4300ms);
  ASSERT_EQ(net.dns_answers.size(), 1U);
  const std::vector<std::uint8_t>& answer = net.dns_answers.back();
  EXPECT_EQ(answer[3] & 0x0f, 2);
  const auto cookie = std::search(answer.begin(), answer.end(), option + 4, option + 12);
  ASSERT_NE(cookie, answer.end());
  EXPECT_EQ(answer.end() - cookie, 16) << "the client's eight bytes and ours";
}

TEST_F(Eager, ARefusalIsTheQuerysAnswer) {
  net.on_request = [this](const v1::RequestConnection& request) { net.refuse(request, v1::REFUSAL_REASON_OFFLINE); };
  EXPECT_EQ(ask("web.corp.example"), "");
  EXPECT_EQ(rcode(), 2);
}

// The failure that started it all: the path dies, and nothing but a DNS query brings it back.
TEST_F(Eager, IsDeadFifteenSecondsAfterTheLastAnswerUntilTheNextQuery) {
  const std::string address = ask("web.corp.example");
  for (int i = 0; i < 100; ++i) {  // idle is not dead
    send(address);
    net.advance(1s);
  }
  net.advance(60s);
  send(address);
  const std::size_t delivered = net.gw().packets.size();
  ASSERT_EQ(delivered, 101U);
  bool dead = true;
  net.drop = [&dead](Bytes) { return dead; };
  const Instant died = net.now.monotonic;
  while (!logged("has not answered for 15 s") && net.now.monotonic - died < 60s) {
    send(address);
    net.advance(100ms);
  }
  EXPECT_GE(net.now.monotonic - died, 9s);
  EXPECT_LE(net.now.monotonic - died, 16s);
  // The network is well again, and it does not help.
  dead = false;
  for (int i = 0; i < 3000; ++i) {
    send(address);
    net.advance(100ms);
  }
  EXPECT_EQ(net.gw().packets.size(), delivered);
  EXPECT_THAT(net.icmp_errors(), Contains("3/1"));
  EXPECT_EQ(net.requests.size(), 1U);
  EXPECT_EQ(ask("web.corp.example"), address);
  send(address);
  EXPECT_EQ(net.gw().packets.size(), delivered + 1);
  EXPECT_EQ(net.requests.size(), 2U);
}

TEST_F(Eager, PacketsAloneSetNothingUp) {
  const std::string address = ask("web.corp.example");
  net.revoke("corp", "gw1");
  send(address);
  net.advance(10s);
  EXPECT_EQ(net.requests.size(), 1U);
  // Resources by address have no query; they still come up with the first packet.
  send("192.0.2.7");
  EXPECT_EQ(net.gw().packets.size(), 1U);
}

TEST_F(Eager, NothingIsRepaired) {
  const std::string address = ask("web.corp.example");
  send(address);
  // As busy as can be: still only a look every five seconds, over the one path.
  const std::size_t before = net.datagrams;
  for (int i = 0; i < 100; ++i) {
    send(address);
    net.advance(100ms);
  }
  EXPECT_LE(net.datagrams - before, 100U + 5U);
}

TEST_F(Eager, LookingAtQueriesIsBounded) {
  net.on_request = nullptr;
  for (int i = 0; i < 1000; ++i) ask("n" + std::to_string(i) + ".corp.example");
  EXPECT_EQ(net.dns_answers.size(), 744U) << "those that do not fit fail at once";
  net.advance(5s);
  EXPECT_EQ(net.dns_answers.size(), 1000U);
}

// trap: signaling-7. The portal judges; the client says who must do what.
TEST(Versions, AnOldGatewayIsNamedToTheAdministratorAndAnsweredToTheApplication) {
  Network net;
  const std::string detail =
      "gateway gw1 of site hq speaks protocol 1.0, this client 1.1: upgrade gateway gw1";
  net.on_request = [&](const v1::RequestConnection& request) {
    net.refuse(request, v1::REFUSAL_REASON_VERSION_MISMATCH, detail);
  };
  net.connect({Network::cidr_resource("lan", "203.0.113.0/24")});
  net.send(make_udp(kClient4, "203.0.113.80", 4000, 7, "a"));
  EXPECT_EQ(net.icmp_errors(), std::vector<std::string>{"3/1"});
  EXPECT_THAT(net.log, Contains(HasSubstr(detail)));
  v1::StatusReply status;
  net.agent->show_status(status, net.now);
  bool shown = false;
  for (const auto& line : status.lines())
    shown = shown || (line.key() == "resource lan" && line.value() == "refused: " + detail);
  EXPECT_TRUE(shown);
}

}  // namespace
}  // namespace penstock::client
