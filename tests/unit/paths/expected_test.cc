// A gateway that the portal is asking for us: relays let it in before it is granted (docs/paths.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "controlplane/core/paths/connectivity.h"
#include "dataplane/core/stun/message.h"
#include "tests/model/seeded_random.h"
#include "tests/model/turn_server.h"

namespace penstock::paths {
namespace {

using namespace std::chrono_literals;
using model::Datagram;
using model::TurnServer;

Endpoint endpoint(const std::string& text) {
  return *Endpoint::parse(text);
}

const Endpoint kSocket = endpoint("0.0.0.0:41000");
const Endpoint kClient = endpoint("198.51.100.130:41000");
const Endpoint kServer = endpoint("198.51.100.20:3478");
const Endpoint kListed = endpoint("203.0.113.7:51820");
const Endpoint kByItsNat = endpoint("203.0.113.7:33333");
constexpr GatewayHandle kGateway = 1;

// A client, a relay, and a wire that takes no time.
class Expected : public ::testing::Test {
 protected:
  Expected() : server(server_config(), random), connectivity(ConnectivityConfig{}, random) {
    const Endpoint hosts[] = {kClient};
    connectivity.handle_local_addresses({&kSocket, 1}, hosts, now());
    const RelayConfig relays[] = {{"relay", {kServer}, "user", "secret", "", {}}};
    connectivity.handle_relays(relays, now());
    pump();
  }
  static TurnServer::Config server_config() {
    TurnServer::Config config;
    config.listen = kServer;
    config.relay_v4 = kServer.address;
    config.relay_v6 = *IpAddress::parse("2001:db8:20::20");
    return config;
  }
  Now now() const { return {time, {1'800'000'000, 0}}; }

  void pump() {
    std::deque<Datagram> wire;
    for (;;) {
      while (auto transmit = connectivity.poll_transmit())
        if (transmit->remote == kServer) wire.push_back({kClient, kServer, std::move(transmit->bytes)});
      while (connectivity.poll_event()) {
      }
      if (wire.empty()) return;
      const Datagram datagram = wire.front();
      wire.pop_front();
      deliver(datagram, wire);
    }
  }
  void deliver(const Datagram& datagram, std::deque<Datagram>& wire) {
    std::deque<Datagram> out;
    server.handle(datagram, time, out);
    for (Datagram& answer : out) {
      if (answer.to == kClient)
        connectivity.handle_datagram(answer.bytes, kSocket, answer.from, now());
      else
        wire.push_back(std::move(answer));
    }
  }
  void run(Duration how_long) {
    const Instant until = time + how_long;
    for (;;) {
      const Instant next = connectivity.poll_timeout().at;
      if (next > until) break;
      time = std::max(time, next);
      connectivity.handle_timeout(now());
      ASSERT_GT(connectivity.poll_timeout().at, time) << connectivity.poll_timeout().why;  // trap: paths-21
      pump();
    }
    time = until;
  }
  // The gateway sends a punch to our relayed address. False: the relay does not let it in.
  bool punch(const Endpoint& from) {
    Endpoint relayed;
    for (const Candidate& candidate : connectivity.local_candidates())
      if (candidate.kind == CandidateKind::relayed) relayed = candidate.endpoint;
    std::array<std::uint8_t, 64> buffer;
    const Bytes punch = stun::build_binding_indication(buffer, stun::TransactionId{});
    std::deque<Datagram> wire;
    const auto before = server.statistics().data_down;
    deliver({from, relayed, {punch.begin(), punch.end()}}, wire);
    pump();
    return server.statistics().data_down > before;
  }
  void expect(const std::vector<Candidate>& candidates) {
    connectivity.expect_gateway(candidates, now());
    pump();
  }
  std::vector<Endpoint> ways_after_grant(const std::vector<Candidate>& candidates) {
    connectivity.add_gateway(kGateway, now());
    connectivity.handle_remote_candidates(kGateway, candidates, now());
    std::vector<Endpoint> out;
    for (const Path& path : connectivity.handshake_paths(kGateway))
      if (path.relay != 0) out.push_back(path.remote);
    return out;
  }

  const std::vector<Candidate> listed{{CandidateKind::server_reflexive, kListed}};
  model::SeededRandom random{7};
  TurnServer server;
  Connectivity connectivity;
  Instant time{1h};
};

TEST_F(Expected, IsLetInByTheRelayAndFoundByItsPunch) {
  EXPECT_FALSE(punch(kByItsNat));
  expect(listed);
  EXPECT_EQ(server.statistics().permissions, 1u);
  EXPECT_TRUE(punch(kByItsNat));
  // The initiation leaves at once, and first to where the gateway's NAT lets it in.
  EXPECT_THAT(ways_after_grant(listed), testing::ElementsAre(kByItsNat, kListed));
  EXPECT_TRUE(connectivity.heard_over_relay(kGateway));
  pump();
  EXPECT_EQ(server.statistics().permissions, 1u);  // what is there is not asked for again
}

TEST_F(Expected, WithoutAPunchTheWayIsOpenAllTheSame) {
  expect(listed);
  EXPECT_THAT(ways_after_grant(listed), testing::ElementsAre(kListed));
  EXPECT_FALSE(connectivity.heard_over_relay(kGateway));
}

TEST_F(Expected, NotExpectedItWaitsForThePermission) {
  EXPECT_THAT(ways_after_grant(listed), testing::IsEmpty());
  pump();
  EXPECT_EQ(server.statistics().permissions, 1u);
}

// Whatever else the portal names is not mixed up with the gateway that is granted.
TEST_F(Expected, AnotherGatewaysPunchIsNotItsOwn) {
  expect(listed);
  expect({{CandidateKind::server_reflexive, endpoint("203.0.113.8:51820")}});
  EXPECT_TRUE(punch(endpoint("203.0.113.8:40000")));
  EXPECT_THAT(ways_after_grant(listed), testing::ElementsAre(kListed));
  EXPECT_FALSE(connectivity.heard_over_relay(kGateway));
  EXPECT_TRUE(punch(endpoint("203.0.113.8:40000")));  // which is still expected
}

TEST_F(Expected, IsForgottenWhenNoGrantComes) {
  expect(listed);
  run(Connectivity::kExpectFor - 100ms);
  expect(listed);  // the portal asks it again
  run(Connectivity::kExpectFor - 100ms);
  EXPECT_TRUE(punch(kByItsNat));
  EXPECT_EQ(server.statistics().permissions, 1u);
  run(200ms);
  run(6min);  // the relay's permission ends and is not asked for again
  EXPECT_EQ(server.statistics().permissions, 1u);
  EXPECT_FALSE(punch(kByItsNat));
  EXPECT_THAT(ways_after_grant(listed), testing::IsEmpty());
}

TEST_F(Expected, AreBoundedAndOnlyPublicAddressesOfTheirs) {
  for (int i = 1; i <= 40; ++i)
    expect({{CandidateKind::server_reflexive, endpoint("203.0.113." + std::to_string(i) + ":51820")},
            {CandidateKind::host, endpoint("10.0.0." + std::to_string(i) + ":51820")},
            {CandidateKind::host, endpoint("224.0.0.1:51820")}});
  EXPECT_EQ(server.statistics().permissions, 40u);
  EXPECT_TRUE(punch(endpoint("203.0.113.37:1")));
  EXPECT_TRUE(punch(endpoint("203.0.113.40:1")));
  run(Connectivity::kExpectFor);
  EXPECT_EQ(connectivity.show(kGateway).size(), 0u);
  run(4min);  // of them all none is refreshed
  EXPECT_EQ(server.statistics().permissions, 40u);
}

}  // namespace
}  // namespace penstock::paths
