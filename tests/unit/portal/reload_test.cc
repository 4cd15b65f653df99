// What ends, changes or outlives a grant.
#include "tests/unit/portal/broker_bench.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;

bool has_change(const v1::PortalToClient& message) {
  return message.has_resource_change();
}
bool has_revoked(const v1::PortalToClient& message) {
  return message.has_authorisation_revoked();
}

// trap: flow-8, flow-9
TEST(Reload, ARevocationMissedWhileDisconnectedIsRepairedByWelcome) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway);
  bench.broker->handle_disconnected(gateway, bench.now);
  BrokerConfig config = basic_config();
  config.clients.erase("alice");
  bench.broker->reconfigure(config, bench.now);
  bench.drain();
  EXPECT_EQ(bench.closed.at(alice).reason, CloseReason::unauthenticated);
  const auto back = bench.join_gateway("gw1");
  EXPECT_EQ(bench.gateway_welcome(back).authorisations_size(), 0);
  EXPECT_EQ(bench.to_gateway[back].size(), 1u);
}

TEST(Reload, GrantsSurviveTheProcess) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.resource = "corp", .names = {"a.corp.example"}});
  const std::string preshared = bench.authorize(gateway)->preshared_key();
  for (const auto& [key, value] : bench.disk) EXPECT_EQ(value.find(base64(preshared)), std::string::npos) << key;
  bench.start(basic_config());
  const auto back = bench.join_gateway("gw1");
  ASSERT_EQ(bench.gateway_welcome(back).authorisations_size(), 1);
  EXPECT_EQ(bench.gateway_welcome(back).authorisations(0).preshared_key(), preshared);
  ASSERT_EQ(bench.gateway_welcome(back).authorisations(0).names_size(), 1);
  EXPECT_EQ(bench.gateway_welcome(back).authorisations(0).names(0).name(), "a.corp.example");
}

TEST(Reload, ADamagedMemoryIsForgotten) {
  Bench bench;
  bench.disk = {{"grant/alice/printer", "{]"},
                {"grant/alice", "x"},
                {"address/alice", "-3"},
                {"grant/alice/corp", R"({"gateway":7})"},
                {"owed/alice", ""},
                {"what/is/this", "?"}};
  bench.start(basic_config());
  EXPECT_EQ(bench.broker->grant_count(), 0u);
  EXPECT_FALSE(bench.disk.contains("grant/alice/printer"));
  bench.join_client("alice");
}

TEST(Reload, TellsEverybodyWhatChangedForThem) {
  struct Case {
    const char* what;
    void (*change)(BrokerConfig&);
    std::size_t revoked_at_gateway;
    bool client_told_revoked;
    bool authorized_again;
    int upserted, removed;
  };
  for (const Case& c : {
           Case{"nothing", [](BrokerConfig&) {}, 0, false, false, 0, 0},
           Case{"policy removed",
                [](BrokerConfig& config) {
                  std::erase_if(config.policies, [](auto& p) { return p.resource == "printer"; });
                },
                1, true, false, 0, 1},
           Case{"group left", [](BrokerConfig& config) { config.clients["alice"].groups = {"nobody"}; }, 1, true, false,
                0, 3},
           Case{"condition added",
                [](BrokerConfig& config) {
                  for (auto& policy : config.policies)
                    policy.conditions.client_ranges = {*Prefix::parse("203.0.113.0/24")};
                },
                1, true, false, 0, 0},
           // trap: flow-16
           Case{"filter changed",
                [](BrokerConfig& config) {
                  auto* range = config.resources["printer"].mutable_filter()->add_tcp();
                  range->set_first(80);
                  range->set_last(80);
                },
                0, false, true, 1, 0},
           // trap: flow-17
           Case{"stack changed",
                [](BrokerConfig& config) { config.resources["printer"].set_ip_stack(v1::IP_STACK_IPV4); }, 0, false,
                true, 1, 0},
           Case{"site moved", [](BrokerConfig& config) { config.resources["printer"].set_site("lab"); }, 1, true, false,
                1, 0},
           Case{"resource added",
                [](BrokerConfig& config) {
                  config.resources["extra"] = config.resources["printer"];
                  config.resources["extra"].set_id("extra");
                  config.policies.push_back({"staff", "extra", {}});
                },
                0, false, false, 1, 0},
           Case{"expiry set",
                [](BrokerConfig& config) {
                  for (auto& policy : config.policies) policy.conditions.expires = WallTime{1'900'000'000, 0};
                },
                0, false, true, 0, 0},
       }) {
    Bench bench;
    ConnectionId alice = 0;
    ConnectionId gateway = 0;
    bench.connect_alice(alice, gateway);
    const auto authorized = bench.to_gateway[gateway].size();
    BrokerConfig config = basic_config();
    c.change(config);
    ASSERT_EQ(validate(config), std::nullopt) << c.what;
    bench.broker->reconfigure(config, bench.now);
    bench.drain();
    EXPECT_EQ(bench.revocations(gateway), c.revoked_at_gateway) << c.what;
    EXPECT_EQ(bench.count_client(alice, has_revoked), c.client_told_revoked ? 1u : 0u) << c.what;
    EXPECT_EQ(bench.to_gateway[gateway].size() - authorized, c.revoked_at_gateway + (c.authorized_again ? 1 : 0))
        << c.what;
    int upserted = 0;
    int removed = 0;
    for (const auto& message : bench.to_client[alice]) {
      upserted += message.resource_change().upserted_size();
      removed += message.resource_change().removed_size();
    }
    EXPECT_EQ(upserted, c.upserted) << c.what;
    EXPECT_EQ(removed, c.removed) << c.what;
    EXPECT_EQ(bench.count_client(alice, has_change), upserted + removed == 0 ? 0u : 1u) << c.what;
  }
}

TEST(Reload, AChangedTokenEndsTheStream) {
  Bench bench;
  const auto alice = bench.join_client("alice");
  const auto gateway = bench.join_gateway("gw1");
  BrokerConfig config = basic_config();
  config.clients["alice"].token_sha256 = sha256("another");
  config.gateways["gw1"].token_sha256 = sha256("another too");
  bench.broker->reconfigure(config, bench.now);
  bench.drain();
  EXPECT_EQ(bench.closed.at(alice).reason, CloseReason::unauthenticated);
  EXPECT_EQ(bench.closed.at(gateway).reason, CloseReason::unauthenticated);
}

TEST(Reload, AClientThatWasAwayLearnsWhatItLost) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway);
  bench.broker->handle_disconnected(alice, bench.now);
  BrokerConfig config = basic_config();
  config.policies[1].conditions.client_ranges = {*Prefix::parse("203.0.113.0/24")};
  bench.broker->reconfigure(config, bench.now);  // unjudged while it is away: the range may hold on its return
  bench.drain();
  EXPECT_EQ(bench.revocations(gateway), 0u);
  const auto elsewhere = bench.join_client("alice");
  EXPECT_EQ(bench.revocations(gateway), 1u);
  EXPECT_EQ(bench.count_client(elsewhere, has_revoked), 1u);

  bench.broker->handle_disconnected(elsewhere, bench.now);
  bench.connect_alice(alice, gateway, {.resource = "corp"});
  bench.broker->handle_disconnected(alice, bench.now);
  std::erase_if(config.policies, [](const Policy& policy) { return policy.resource == "corp"; });
  bench.broker->reconfigure(config, bench.now);
  bench.drain();
  bench.start(config);  // also across a restart of the portal
  const auto back = bench.join_client("alice");
  EXPECT_EQ(bench.count_client(back, has_revoked), 1u);
  EXPECT_EQ(bench.count_client(bench.join_client("alice"), has_revoked), 0u);
}

TEST(Reload, NewKeysEndOldGrants) {
  for (const bool client_rolls : {true, false}) {
    Bench bench;
    ConnectionId alice = 0;
    ConnectionId gateway = 0;
    bench.connect_alice(alice, gateway);
    if (client_rolls) {
      bench.join_client("alice", 9);
      EXPECT_EQ(bench.revocations(gateway), 1u);
    } else {
      const auto back = bench.join_gateway("gw1", 110);
      EXPECT_EQ(bench.gateway_welcome(back).authorisations_size(), 0);
      EXPECT_EQ(bench.to_gateway[back].size(), 1u);  // Welcome says it all
      EXPECT_EQ(bench.count_client(alice, has_revoked), 1u);
    }
    EXPECT_EQ(bench.broker->grant_count(), 0u);
  }
}

TEST(Reload, ADowngradedGatewayKeepsNoClientItMayNotServe) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway);
  const auto back = bench.join_gateway("gw1", 101, {1, 0});
  EXPECT_EQ(bench.gateway_welcome(back).authorisations_size(), 0);
  EXPECT_EQ(bench.count_client(alice, has_revoked), 1u);
}

// trap: flow-13, flow-14
TEST(Reload, GrantsExpireAndRenewedOnesDoNot) {
  BrokerConfig config = basic_config();
  Bench bench;
  config.policies[1].conditions.expires = WallTime{bench.now.wall.seconds + 600, 0};
  bench.start(config);
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway);
  EXPECT_EQ(from_proto(bench.granted(alice)->expires()).seconds, config.policies[1].conditions.expires->seconds);
  bench.advance(300s);
  config.policies[1].conditions.expires = WallTime{bench.now.wall.seconds + 600, 0};
  bench.broker->reconfigure(config, bench.now);
  bench.drain();
  bench.advance(301s);  // past the first expiry
  EXPECT_EQ(bench.broker->grant_count(), 1u);
  bench.advance(300s);
  EXPECT_EQ(bench.broker->grant_count(), 0u);
  EXPECT_EQ(bench.revocations(gateway), 1u);
  EXPECT_EQ(bench.count_client(alice, has_revoked), 1u);
  EXPECT_FALSE(bench.disk.contains("grant/alice/printer"));
}

TEST(Reload, MovingToAnotherGatewayEndsTheRightAtTheFirst) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId one = 0;
  bench.connect_alice(alice, one);
  const auto two = bench.join_gateway("gw2", 102);
  bench.advance(2s);
  bench.request(alice, {.id = "q2", .unreachable = {"gw1"}});
  bench.answer(two);
  EXPECT_EQ(bench.granted(alice)->gateway(), "gw2");
  EXPECT_EQ(bench.revocations(one), 1u);
  EXPECT_EQ(bench.broker->grant_count(), 1u);
}

// trap: nat-15
TEST(Reload, ARenumberedProxyAddressLeavesItsFormerName) {
  Bench bench;
  ConnectionId alice = 0;
  ConnectionId gateway = 0;
  bench.connect_alice(alice, gateway, {.resource = "corp", .names = {"a.corp.example", "b.corp.example"}});
  bench.advance(2s);
  bench.request(alice, {.resource = "corp", .id = "q2", .names = {"c.corp.example"}});  // has a's address now
  std::vector<std::string> names;
  for (const auto& binding : bench.authorize(gateway)->names()) names.push_back(binding.name());
  EXPECT_EQ(names, (std::vector<std::string>{"b.corp.example", "c.corp.example"}));
}

TEST(Validate, FindsWhatDoesNotHoldTogether) {
  struct Case {
    void (*change)(BrokerConfig&);
    const char* error;
  };
  for (const Case& c : {
           Case{[](BrokerConfig& config) { config.gateways["gw1"].site = "x"; }, "gateways.gw1.site: no site 'x'"},
           Case{[](BrokerConfig& config) { config.policies[0].resource = "x"; },
                "policies[0].resource: no resource 'x'"},
           Case{[](BrokerConfig& config) { config.clients["bob"].token_sha256 = sha256("token-alice"); },
                "clients.bob.token_sha256: the same token as alice"},
           Case{[](BrokerConfig& config) { config.clients["a/b"] = {}; },
                "clients.a/b.id: must be 1 to 64 of A-Z a-z 0-9 . _ -"},
           Case{[](BrokerConfig& config) { config.resources["corp"].set_pattern("a..b"); },
                "resources.corp.pattern: not a name pattern"},
           Case{[](BrokerConfig& config) { config.pools.proxy_v4 = *Prefix::parse("100.64.0.0/10"); },
                "pools.proxy_v4: overlaps pools.tunnel_v4"},
           Case{[](BrokerConfig& config) { config.clients["bob"].fixed.v4 = *IpAddress::parse("10.0.0.1"); },
                "clients.bob.tunnel_addresses: 10.0.0.1 is not in the tunnel pools"},
       }) {
    BrokerConfig config = basic_config();
    c.change(config);
    EXPECT_EQ(validate(config), c.error);
  }
}

TEST(Reload, GatewaysAreToldWhatTheirSiteSays) {
  BrokerConfig config = basic_config();
  config.site_settings["lab"].set_source_nat(v1::SiteSettings::SOURCE_NAT_OFF);
  Bench bench(config);
  const auto gateway = bench.join_gateway("gw1");
  const auto other = bench.join_gateway("gw2", 102);
  EXPECT_EQ(bench.gateway_welcome(gateway).site_settings().ByteSizeLong(), 0u) << "that is another site";
  const auto told = [&bench](ConnectionId connection) {
    std::vector<v1::SiteSettings> out;
    for (const auto& message : bench.to_gateway[connection])
      if (message.has_site_settings()) out.push_back(message.site_settings());
    return out;
  };
  const auto reload = [&] {
    bench.broker->reconfigure(config, bench.now);
    bench.drain();
  };
  reload();
  EXPECT_TRUE(told(gateway).empty()) << "nothing has changed";
  config.site_settings["hq"].set_mapping(v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT);
  config.gateways["gw2"].site = "lab";
  reload();
  ASSERT_EQ(told(gateway).size(), 1u);
  EXPECT_EQ(told(gateway)[0].mapping(), v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT);
  ASSERT_EQ(told(other).size(), 1u);
  EXPECT_EQ(told(other)[0].source_nat(), v1::SiteSettings::SOURCE_NAT_OFF) << "it has moved";
  config.site_settings.clear();
  reload();
  EXPECT_EQ(told(gateway).back().ByteSizeLong(), 0u);
  const auto again = bench.join_gateway("gw1");
  EXPECT_EQ(bench.gateway_welcome(again).site_settings().ByteSizeLong(), 0u);
}

}  // namespace
}  // namespace penstock::broker
