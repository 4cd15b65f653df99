#include <gmock/gmock.h>

#include "controlplane/core/broker/decision.h"
#include "tests/unit/portal/broker_bench.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

TEST(Broker, TokensAreKnownByDigestAndRole) {
  Bench bench;
  EXPECT_EQ(bench.broker->authenticate(Role::client, "token-alice"), "alice");
  EXPECT_EQ(bench.broker->authenticate(Role::gateway, "token-gw2"), "gw2");
  EXPECT_EQ(bench.broker->authenticate(Role::gateway, "token-alice"), std::nullopt);
  EXPECT_EQ(bench.broker->authenticate(Role::client, "token-alicf"), std::nullopt);
  EXPECT_EQ(bench.broker->authenticate(Role::client, ""), std::nullopt);
}

TEST(Broker, WelcomeListsWhatSomePolicyNames) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  const auto& welcome = bench.client_welcome(alice);
  ASSERT_EQ(welcome.resources_size(), 3);  // also vault, whose condition fails now
  EXPECT_EQ(address_from_wire(welcome.tunnel().v4())->to_string(), "100.64.0.1");
  EXPECT_EQ(address_from_wire(welcome.tunnel().v6())->to_string(), "fd00:2021:1111::1");
  EXPECT_EQ(from_proto(welcome.observed())->to_string(), "198.51.100.30:50000");
  ASSERT_EQ(welcome.relays_size(), 1);
  EXPECT_THAT(welcome.relays(0).username(), testing::EndsWith(":alice"));
  EXPECT_EQ(bench.client_welcome(bench.join_client("bob", 2)).resources_size(), 0);
}

TEST(Broker, JoinsAClientAndAGateway) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.resource = "corp", .names = {"WEB.corp.example."}});
  const v1::Authorize& asked = *bench.authorize(gateway);
  EXPECT_EQ(asked.authorisation(), "alice/corp");
  EXPECT_EQ(asked.client_public_key(), as_text(key_of(1)));
  ASSERT_EQ(asked.names_size(), 1);
  EXPECT_EQ(asked.names(0).name(), "web.corp.example");
  const v1::ConnectionGranted& granted = *bench.granted(alice);
  EXPECT_EQ(granted.request_id(), "q1");
  EXPECT_EQ(granted.gateway(), "gw1");
  EXPECT_EQ(granted.gateway_public_key(), as_text(key_of(101)));
  EXPECT_EQ(granted.preshared_key(), asked.preshared_key());
  EXPECT_EQ(granted.preshared_key().size(), 32u);
  ASSERT_EQ(granted.candidates_size(), 2);  // what the portal saw, and the gateway's own
  EXPECT_EQ(from_proto(granted.candidates(0).endpoint())->to_string(), "198.51.100.40:51820");
  EXPECT_FALSE(granted.has_expires());
}

TEST(Broker, PresharedKeysAreStableAndPerPair) {
  EXPECT_EQ(preshared_key("s", key_of(1), key_of(2)), preshared_key("s", key_of(1), key_of(2)));
  EXPECT_NE(preshared_key("s", key_of(1), key_of(2)), preshared_key("s", key_of(2), key_of(1)));
  EXPECT_NE(preshared_key("s", key_of(1), key_of(2)), preshared_key("t", key_of(1), key_of(2)));
}

TEST(Broker, RelayCredentialsAreCoturns) {
  // printf %s 1800000000:alice | openssl dgst -sha1 -hmac north -binary | base64
  const auto credential = relay_credential("north", "alice", {1'800'000'000, 5});
  EXPECT_EQ(credential.username, "1800000000:alice");
  EXPECT_EQ(credential.password, "sIm7pn/teO7y3AyXGeXl/xAQR6Q=");
  EXPECT_EQ(credential.expires, (WallTime{1'800'000'000, 0}));
}

TEST(Broker, RelayCredentialsAreRenewedBeforeTheyExpire) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  const auto first = from_proto(bench.client_welcome(alice).relays(0).expires());
  bench.advance(24h);
  std::size_t renewals = 0;
  WallTime previous = first;
  for (const auto& message : bench.to_client[alice]) {
    if (!message.has_relays_change()) continue;
    ++renewals;
    const WallTime expires = from_proto(message.relays_change().relays(0).expires());
    EXPECT_GT(expires, previous);
    previous = expires;
  }
  EXPECT_EQ(renewals, 4u);  // every 6 h of 12 h
  EXPECT_GT(previous, bench.now.wall);
}

// What a client holds on a relay stands under the name it was made with: one that dials again gets the same.
TEST(Broker, RelayNamesStayWhenAClientDialsAgain) {
  Bench bench;
  std::set<std::string> names;
  for (int minute = 0; minute < 60; ++minute) {
    names.insert(bench.client_welcome(bench.join_client("alice")).relays(0).username());
    bench.advance(1min);
  }
  EXPECT_LE(names.size(), 2u);
}

// trap: signaling-7
TEST(Broker, VersionsAreComparedAsNumbers) {
  struct Case {
    ProtocolVersion client, gateway;
    bool joined;
  };
  for (const Case& c : {Case{{1, 1}, {1, 1}, true}, Case{{1, 0}, {1, 1}, true}, Case{{1, 1}, {1, 0}, false},
                        Case{{1, 0}, {1, 0}, true}, Case{{1, 0}, {1, 2}, false}, Case{{1, 9}, {1, 10}, true},
                        Case{{1, 10}, {1, 9}, false}, Case{{1, 19}, {1, 9}, false}, Case{{1, 9}, {1, 19}, false},
                        Case{{1, 4}, {2, 4}, false}, Case{{2, 0}, {1, 1}, false}, Case{{1, 4294967295}, {1, 0}, false},
                        Case{{1, 0}, {1, 4294967295}, false}, Case{{1, 4294967294}, {1, 4294967295}, true}})
    EXPECT_EQ(may_be_joined(c.client, c.gateway), c.joined) << c.client.to_string() << " " << c.gateway.to_string();
  EXPECT_LT((ProtocolVersion{1, 9}), (ProtocolVersion{1, 19}));
  EXPECT_EQ(parse_protocol_version("1.19"), (ProtocolVersion{1, 19}));
  for (const char* text : {"", "1", "1.", ".1", "1.-1", "-1.0", "1.1.1", "1.x", "1.99999999999"})
    EXPECT_EQ(parse_protocol_version(text), std::nullopt) << text;
}

TEST(Broker, RefusesWithTheRightReason) {
  struct Case {
    const char* what;
    std::string resource;
    bool online;
    ProtocolVersion gateway;
    v1::RefusalReason reason;
    const char* detail;
  };
  const ProtocolVersion same{1, 1};
  for (const Case& c :
       {Case{"no such resource", "nothing", true, same, v1::REFUSAL_REASON_NOT_FOUND, "no policy"},
        Case{"condition fails", "vault", true, same, v1::REFUSAL_REASON_FORBIDDEN, "client_ranges"},
        Case{"no gateway", "printer", false, same, v1::REFUSAL_REASON_OFFLINE, "site hq"},
        Case{"old gateway", "printer", true, {1, 0}, v1::REFUSAL_REASON_VERSION_MISMATCH,
             "site hq speaks protocol 1.0, this client 1.1: upgrade gateway gw1"}}) {
    Bench bench;
    if (c.online) bench.join_gateway("gw1", 101, c.gateway);
    const auto alice = bench.join_client("alice");
    bench.request(alice, {.resource = c.resource});
    EXPECT_EQ(bench.refusal(alice).reason(), c.reason) << c.what;
    EXPECT_THAT(bench.refusal(alice).detail(), HasSubstr(c.detail)) << c.what;
    EXPECT_EQ(bench.refusal(alice).request_id(), "q1");
    EXPECT_EQ(bench.broker->grant_count() + bench.broker->pending_count(), 0u);
  }
}

TEST(Broker, ChoosesTheGateway) {
  struct Case {
    const char* what;
    std::uint32_t load1, load2;
    std::vector<std::string> connected, unreachable;
    const char* chosen;
  };
  for (const Case& c :
       {Case{"least loaded", 700, 100, {}, {}, "gw2"}, Case{"same load: lowest id", 50, 10, {}, {}, "gw1"},
        Case{"connected beats load", 900, 0, {"gw1"}, {}, "gw1"},
        Case{"unreachable loses", 0, 900, {"gw1"}, {"gw1"}, "gw2"},
        Case{"all unreachable: still one", 0, 900, {}, {"gw1", "gw2"}, "gw1"}}) {
    Bench bench;
    const auto one = bench.join_gateway("gw1", 101);
    const auto two = bench.join_gateway("gw2", 102);
    for (const auto& [connection, load] : {std::pair{one, c.load1}, std::pair{two, c.load2}}) {
      v1::GatewayToPortal message;
      message.mutable_load()->set_busy_permille(load);
      bench.broker->handle_message(connection, message, bench.now);
    }
    const auto alice = bench.join_client("alice");
    bench.request(alice, {.connected = c.connected, .unreachable = c.unreachable});
    const auto chosen = bench.authorize(one) != nullptr ? "gw1" : "gw2";
    EXPECT_STREQ(chosen, c.chosen) << c.what;
  }
}

TEST(Broker, ASilentGatewayIsReplacedThenOffline) {
  Bench bench;
  const auto one = bench.join_gateway("gw1", 101);
  const auto two = bench.join_gateway("gw2", 102);
  const auto alice = bench.join_client("alice");
  bench.request(alice, {});
  EXPECT_NE(bench.authorize(one), nullptr);
  EXPECT_EQ(bench.authorize(two), nullptr);
  bench.advance(kAuthorizeTimeout);
  EXPECT_NE(bench.authorize(two), nullptr);
  EXPECT_EQ(bench.revocations(one), 1u);  // it may have carried it out
  bench.advance(kAuthorizeTimeout);
  EXPECT_EQ(bench.refusal(alice).reason(), v1::REFUSAL_REASON_OFFLINE);
  EXPECT_THAT(bench.refusal(alice).detail(), HasSubstr("answered"));
  // An answer that comes after all is taken back.
  bench.answer(one);
  EXPECT_EQ(bench.revocations(one), 2u);
  EXPECT_EQ(bench.broker->grant_count(), 0u);
}

TEST(Broker, ARefusingGatewayIsReplaced) {
  Bench bench;
  const auto one = bench.join_gateway("gw1", 101);
  const auto two = bench.join_gateway("gw2", 102);
  const auto alice = bench.join_client("alice");
  bench.request(alice, {});
  bench.answer(one, false, "table full");
  bench.answer(two);
  ASSERT_NE(bench.granted(alice), nullptr);
  EXPECT_EQ(bench.granted(alice)->gateway(), "gw2");
}

// trap: flow-4
TEST(Broker, AnAuthorizeLostWithTheStreamIsSaidAgain) {
  Bench bench;
  const auto before = bench.join_gateway("gw1");
  const auto alice = bench.join_client("alice");
  bench.request(alice, {});
  ASSERT_NE(bench.authorize(before), nullptr);
  bench.broker->handle_disconnected(before, bench.now);
  bench.advance(500ms);
  const auto after = bench.join_gateway("gw1");
  ASSERT_NE(bench.authorize(after), nullptr);
  bench.answer(after);
  EXPECT_NE(bench.granted(alice), nullptr);
}

// trap: signaling-3
TEST(Broker, NothingCountsBeforeHello) {
  Bench bench;
  bench.broker->handle_connected(77, Role::client, "alice", *Endpoint::parse("198.51.100.30:5"), bench.now);
  bench.request(77, {});
  EXPECT_EQ(bench.closed.at(77).reason, CloseReason::bad_message);
  bench.broker->handle_connected(78, Role::client, "alice", *Endpoint::parse("198.51.100.30:5"), bench.now);
  v1::ClientToPortal hello;
  hello.mutable_hello()->set_public_key("short");
  bench.broker->handle_message(78, hello, bench.now);
  bench.drain();
  EXPECT_EQ(bench.closed.at(78).reason, CloseReason::bad_message);
  bench.broker->handle_connected(79, Role::gateway, "gw1", *Endpoint::parse("198.51.100.30:5"), bench.now);
  bench.advance(kHelloTimeout);
  EXPECT_EQ(bench.closed.at(79).reason, CloseReason::bad_message);
  EXPECT_TRUE(bench.broker->actors().empty());
}

TEST(Broker, ANewStreamReplacesTheOldOne) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway);
  const auto again = bench.join_client("alice");
  EXPECT_EQ(bench.closed.at(alice).reason, CloseReason::replaced);
  bench.broker->handle_disconnected(alice, bench.now);  // the late end of the old one
  bench.advance(2s);
  bench.request(again, {.id = "q2"});
  bench.answer(gateway);
  EXPECT_NE(bench.granted(again), nullptr);
  const auto gateway_again = bench.join_gateway("gw1");
  EXPECT_EQ(bench.closed.at(gateway).reason, CloseReason::replaced);
  EXPECT_EQ(bench.gateway_welcome(gateway_again).authorisations_size(), 1);
}

TEST(Broker, TunnelAddressesAreStableAndNeverShared) {
  BrokerConfig config = basic_config();
  config.pools.tunnel_v4 = *Prefix::parse("100.64.0.0/29");  // 6 usable
  config.clients.clear();
  for (const char* id : {"a", "b", "c", "d"}) config.clients[id] = {sha256(id), {"staff"}, {}};
  config.clients["c"].fixed = {*IpAddress::parse("100.64.0.1"), *IpAddress::parse("fd00:2021:1111::1")};
  Bench bench{config};
  std::map<std::string, std::string> first;
  for (const char* id : {"b", "c", "a", "d"}) first[id] = bench.client_welcome(bench.join_client(id)).tunnel().v4();
  std::set<std::string> distinct;
  for (const auto& [id, address] : first) distinct.insert(address);
  EXPECT_EQ(distinct.size(), 4u);
  EXPECT_EQ(address_from_wire(first["c"])->to_string(), "100.64.0.1");
  // A restart and an arrival in another order change nothing; a newcomer gets what nobody had.
  config.clients["0"] = {sha256("0"), {"staff"}, {}};
  bench.start(config);
  for (const char* id : {"0", "d", "a", "b"}) {
    const std::string address = bench.client_welcome(bench.join_client(id)).tunnel().v4();
    if (first.contains(id))
      EXPECT_EQ(address, first[id]) << id;
    else
      EXPECT_FALSE(distinct.contains(address));
  }
}

TEST(Decision, ConditionsHoldTogetherAndPoliciesAdd) {
  BrokerConfig config = basic_config();
  const WallTime monday_noon{1'800'273'600 - 1'800'273'600 % 86400 + 43'200, 0};
  const auto weekday = (monday_noon.seconds / 86400 + 4) % 7;
  const auto allowed = [&](Conditions conditions, const char* from = "198.51.100.30") {
    config.policies = {{"staff", "printer", std::move(conditions)}};
    return judge(config, "alice", "printer", *IpAddress::parse(from), monday_noon).allowed;
  };
  const auto day = static_cast<std::uint8_t>(1U << weekday);
  const auto yesterday = static_cast<std::uint8_t>(1U << ((weekday + 6) % 7));
  EXPECT_TRUE(allowed({}));
  EXPECT_TRUE(allowed({{*Prefix::parse("198.51.100.0/24")}, {}, {}}));
  EXPECT_FALSE(allowed({{*Prefix::parse("203.0.113.0/24")}, {}, {}}));
  EXPECT_FALSE(allowed({{*Prefix::parse("2001:db8::/32")}, {}, {}}));
  EXPECT_TRUE(allowed({{}, {{day, 8 * 60, 18 * 60}}, {}}));
  EXPECT_FALSE(allowed({{}, {{day, 13 * 60, 18 * 60}}, {}}));
  EXPECT_FALSE(allowed({{}, {{yesterday, 8 * 60, 18 * 60}}, {}}));
  EXPECT_TRUE(allowed({{}, {{yesterday, 20 * 60, 14 * 60}}, {}}));  // over midnight
  EXPECT_FALSE(allowed({{}, {}, monday_noon}));
  EXPECT_TRUE(allowed({{}, {}, WallTime{monday_noon.seconds + 1, 0}}));
  EXPECT_FALSE(allowed({{*Prefix::parse("203.0.113.0/24")}, {{day, 0, 24 * 60}}, {}}));
  // The end of the right is the end of the last policy that gives it.
  config.policies = {{"staff", "printer", {{}, {{day, 8 * 60, 18 * 60}}, {}}},
                     {"staff", "printer", {{}, {}, WallTime{monday_noon.seconds + 60, 0}}}};
  const auto decision = judge(config, "alice", "printer", std::nullopt, monday_noon);
  EXPECT_EQ(decision.expires->seconds, monday_noon.seconds + 6 * 3600);
}

}  // namespace
}  // namespace penstock::broker
