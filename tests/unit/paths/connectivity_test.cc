// Connectivity as a whole: what belongs to no single gateway.
#include "controlplane/core/paths/connectivity.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "dataplane/core/stun/message.h"
#include "tests/model/seeded_random.h"

namespace penstock::paths {
namespace {

using namespace std::chrono_literals;

Endpoint endpoint(const std::string& text) {
  return *Endpoint::parse(text);
}

struct Bench {
  Bench() : connectivity(ConnectivityConfig{}, random) {
    const Endpoint sockets[] = {endpoint("0.0.0.0:41000")};
    const Endpoint hosts[] = {endpoint("198.51.100.130:41000")};
    connectivity.handle_local_addresses(sockets, hosts, now());
  }
  Now now() const { return {time, {1'800'000'000, 0}}; }
  // STUN servers answer after their delay; what else is sent is counted by address.
  void run(Duration how_long) {
    const Instant until = time + how_long;
    for (;;) {
      while (const auto transmit = connectivity.poll_transmit()) {
        const auto message = stun::Message::parse(transmit->bytes);
        if (message && message->is(stun::Class::request, stun::Method::binding)) {
          if (!delays.contains(transmit->remote)) continue;
          std::array<std::uint8_t, 64> buffer;
          const Bytes answer =
              stun::build_binding_response(buffer, message->transaction_id(), endpoint("198.51.100.30:50000"));
          answers.emplace(time + delays[transmit->remote],
                          std::pair{transmit->remote, std::vector<std::uint8_t>(answer.begin(), answer.end())});
        } else if (message && message->method() == stun::Method::allocate) {
          allocations[transmit->remote] = time;
          first_asked.emplace(transmit->remote, time);
        }
      }
      while (connectivity.poll_event()) {
      }
      Instant next = connectivity.poll_timeout().at;
      if (!answers.empty()) next = std::min(next, answers.begin()->first);
      if (next > until) break;
      time = std::max(time, next);
      while (!answers.empty() && answers.begin()->first <= time) {
        auto [from, bytes] = answers.begin()->second;
        answers.erase(answers.begin());
        connectivity.handle_datagram(bytes, endpoint("0.0.0.0:41000"), from, now());
      }
      if (connectivity.poll_timeout().at <= time) {
        connectivity.handle_timeout(now());
        ASSERT_GT(connectivity.poll_timeout().at, time) << connectivity.poll_timeout().why;  // trap: paths-21
      }
    }
    time = until;
  }

  model::SeededRandom random{7};
  Connectivity connectivity;
  Instant time{1h};
  std::map<Endpoint, Duration> delays;
  std::multimap<Instant, std::pair<Endpoint, std::vector<std::uint8_t>>> answers;
  std::map<Endpoint, Instant> allocations, first_asked;  // latest and first request
};

// More relays than are used: the nearest by round-trip time are.
TEST(Relays, TheNearestAreChosen) {
  Bench bench;
  std::vector<RelayConfig> relays;
  for (int i = 1; i <= 5; ++i) {
    const std::string number = std::to_string(i);
    const Endpoint server = endpoint("198.51.100.2" + number + ":3478");
    relays.push_back({"relay" + number, {server}, "user", "secret", "", {}});
    bench.delays[server] = 200ms - i * 30ms;  // the last is the nearest
  }
  bench.connectivity.handle_relays(relays, bench.now());
  bench.run(2s);
  ASSERT_TRUE(bench.allocations.contains(endpoint("198.51.100.25:3478")));
  ASSERT_TRUE(bench.allocations.contains(endpoint("198.51.100.24:3478")));
  EXPECT_LE(bench.first_asked[endpoint("198.51.100.25:3478")], Instant{1h} + 1s);
  for (const char* far : {"198.51.100.21:3478", "198.51.100.22:3478", "198.51.100.23:3478"})
    if (bench.allocations.contains(endpoint(far))) {
      EXPECT_LE(bench.allocations[endpoint(far)], Instant{1h} + 200ms) << far;
    }
  // The same list again, as with new credentials, changes nothing.
  bench.allocations.clear();
  bench.connectivity.handle_relays(relays, bench.now());
  bench.run(200ms);
  EXPECT_FALSE(bench.allocations.contains(endpoint("198.51.100.21:3478")));
}

// An IPv6-only network: the wildcard IPv4 socket is there, but leads nowhere.
TEST(Relays, AreReachedOverTheFamilyThatWeHave) {
  Bench bench;
  const Endpoint sockets[] = {endpoint("0.0.0.0:41000"), endpoint("[::]:41000")};
  const Endpoint four = endpoint("198.51.100.130:41000"), six = endpoint("[2001:db8:c::2]:41000");
  const std::vector<RelayConfig> relays = {
      {"relay", {endpoint("198.51.100.20:3478"), endpoint("[2001:db8::20]:3478")}, "user", "secret", "", {}}};
  bench.connectivity.handle_local_addresses(sockets, {&six, 1}, bench.now());
  bench.connectivity.handle_relays(relays, bench.now());
  bench.run(500ms);
  EXPECT_TRUE(bench.allocations.contains(endpoint("[2001:db8::20]:3478")));
  EXPECT_FALSE(bench.allocations.contains(endpoint("198.51.100.20:3478")));
  // Between two networks there is no address at all: nothing changes.
  bench.allocations.clear();
  bench.connectivity.handle_local_addresses(sockets, {}, bench.now());
  bench.run(100ms);
  EXPECT_FALSE(bench.allocations.contains(endpoint("198.51.100.20:3478")));
  // The next one has IPv4.
  bench.connectivity.handle_local_addresses(sockets, {&four, 1}, bench.now());
  bench.run(500ms);
  EXPECT_TRUE(bench.allocations.contains(endpoint("198.51.100.20:3478")));
}

TEST(Relays, WithoutAnswersTheFirstOfTheListAreUsed) {
  Bench bench;
  std::vector<RelayConfig> relays;
  for (int i = 1; i <= 3; ++i)
    relays.push_back({"relay" + std::to_string(i), {endpoint("198.51.100.2" + std::to_string(i) + ":3478")}, "u", "s",
                      "", {}});
  bench.connectivity.handle_relays(relays, bench.now());
  bench.run(500ms);
  EXPECT_TRUE(bench.allocations.contains(endpoint("198.51.100.21:3478")));
  EXPECT_TRUE(bench.allocations.contains(endpoint("198.51.100.22:3478")));
  EXPECT_FALSE(bench.allocations.contains(endpoint("198.51.100.23:3478")));
}

}  // namespace
}  // namespace penstock::paths
