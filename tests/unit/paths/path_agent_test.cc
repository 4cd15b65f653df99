#include "controlplane/core/paths/path_agent.h"

#include <gtest/gtest.h>

#include "tests/unit/paths/path_bench.h"

namespace penstock::paths {
namespace {

// ---- which paths there are ----

// trap: paths-15, trap: paths-16, trap: paths-17
TEST_F(PathBench, CandidatesAreBoundedCleanedAndPairedWithinOneFamily) {
  const LocalBase bases[] = {{kSocket, 0, true}, {kSocket6, 0, false}, {kSocket, 1, true}, {kSocket, 2, false}};
  agent.set_bases(bases, false, now());
  std::vector<Candidate> candidates;
  for (const char* bad : {"127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1", "0.0.0.0:1", "169.254.169.254:80",
                          "203.0.113.9:0", "[::1]:1", "[ff02::1]:1", "[fe80::1]:1", "[::]:1", "240.0.0.1:1"})
    candidates.push_back({CandidateKind::host, endpoint(bad)});
  candidates.push_back({CandidateKind::host, kGateway});
  candidates.push_back({CandidateKind::server_reflexive, kGateway});
  candidates.push_back({CandidateKind::host, kGateway6});
  for (std::uint16_t i = 0; i < 50; ++i)
    candidates.push_back({CandidateKind::host, {kGateway.address, static_cast<std::uint16_t>(1000 + i)}});
  agent.set_remote_candidates(candidates, now());

  std::set<Endpoint> remotes;
  for (const PathInfo& info : agent.show()) {
    remotes.insert(info.path.remote);
    const bool v4_base = info.path.relay == 2 ? false : info.path.relay == 1 || info.path.local == kSocket;
    EXPECT_EQ(info.path.remote.address.is_v4(), v4_base) << info.path.to_string();
  }
  EXPECT_EQ(remotes.size(), kMaxCandidates);
  EXPECT_LE(agent.show().size(), PathAgent::kMaxPaths);
  std::set<Path> unique;
  for (const PathInfo& info : agent.show()) EXPECT_TRUE(unique.insert(info.path).second);
}

// A relay that is sent towards an address it has no route to may drop the whole allocation.
TEST_F(PathBench, RelaysAreAskedForPublicAddressesOnly) {
  const LocalBase bases[] = {{kSocket, 0, true}, {kSocket, 1, true}};
  agent.set_bases(bases, false, now());
  const Endpoint inside = endpoint("203.0.113.77:51820");
  const auto relayed = [&](const Endpoint& remote) {
    const auto shown = agent.show();
    return std::any_of(shown.begin(), shown.end(),
                       [&](const PathInfo& info) { return info.path.relay == 1 && info.path.remote == remote; });
  };
  const auto permitted = [&](const Endpoint& remote) {
    const auto addresses = agent.remote_addresses();
    return std::find(addresses.begin(), addresses.end(), remote.address) != addresses.end();
  };
  // Behind a NAT: the reflexive address only.
  agent.set_remote_candidates(
      std::vector<Candidate>{{CandidateKind::host, inside}, {CandidateKind::server_reflexive, kGateway}}, now());
  EXPECT_FALSE(relayed(inside));
  EXPECT_FALSE(permitted(inside));
  EXPECT_TRUE(relayed(kGateway));
  EXPECT_TRUE(permitted(kGateway));
  // Seen under its own address, or nothing known: the host address is the public one.
  agent.set_remote_candidates(std::vector<Candidate>{{CandidateKind::host, inside}}, now());
  EXPECT_TRUE(relayed(inside));
  EXPECT_TRUE(permitted(inside));
}

// The gateway's control process has been started anew and tells its inside address first: a packet to it would end coturn's
// allocation, and the path in use with it.
TEST_F(PathBench, AListWithoutWhatWasSeenMakesNoInsideAddressPublic) {
  start();
  session_up(kRelayed);
  run(1s);
  const Endpoint inside = endpoint("203.0.113.77:51820");
  agent.set_remote_candidates(std::vector<Candidate>{{CandidateKind::host, inside}}, now());
  for (const PathInfo& info : agent.show())
    EXPECT_FALSE(info.path.relay != 0 && info.path.remote == inside);
  const auto permitted = agent.remote_addresses();
  EXPECT_EQ(std::find(permitted.begin(), permitted.end(), inside.address), permitted.end());
  EXPECT_NE(std::find(permitted.begin(), permitted.end(), kGateway.address), permitted.end());
  // It may be public under its own address as well, once somebody has got an answer from there.
  agent.set_remote_candidates(std::vector<Candidate>{{CandidateKind::host, kGateway}}, now());
  const auto shown = agent.show();
  EXPECT_TRUE(std::any_of(shown.begin(), shown.end(), [](const PathInfo& info) {
    return info.path.relay != 0 && info.path.remote == kGateway;
  }));
}

TEST(UsableCandidate, Table) {
  struct Case {
    const char* text;
    bool plain, with_loopback;
  };
  for (const Case& c : {Case{"198.51.100.1:1", true, true},
                        {"127.0.0.1:5", false, true},
                        {"[::1]:5", false, true},
                        {"[::ffff]:5", false, false},
                        {"[2001:db8::1]:5", true, true},
                        {"10.0.0.1:5", true, true},
                        {"100.64.0.1:5", true, true},
                        {"0.1.2.3:5", false, false},
                        {"[fd00::1]:5", true, true}}) {
    EXPECT_EQ(is_usable_candidate(endpoint(c.text), false), c.plain) << c.text;
    EXPECT_EQ(is_usable_candidate(endpoint(c.text), true), c.with_loopback) << c.text;
  }
}

TEST_F(PathBench, HandshakeGoesOverRelayFirst) {
  start();
  EXPECT_EQ(agent.handshake_paths(), (std::vector<Path>{kRelayed, kDirect}));
  EXPECT_EQ(agent.poll_timeout().at, kNever) << "nothing is probed without a session";
  EXPECT_TRUE(agent.data_paths(std::vector<std::uint8_t>(32), now()).empty());
}

// Punches are not authenticated: only from addresses we were told of, and bounded.
TEST_F(PathBench, PunchesTeachPortsOfKnownAddressesOnly) {
  start();
  agent.handle_punch({kSocket, endpoint("192.0.2.99:5"), 1}, now());
  EXPECT_EQ(agent.handshake_paths().size(), 2u);
  const Path punched{kSocket, {kGateway.address, 7777}, 1};
  agent.handle_punch(punched, now());
  EXPECT_EQ(agent.handshake_paths().front(), punched);
  for (std::uint16_t port = 1; port < 2000; ++port) agent.handle_punch({kSocket, {kGateway.address, port}, 1}, now());
  EXPECT_LE(agent.show().size(), PathAgent::kMaxPaths);
}

TEST_F(PathBench, APunchTellsOfAKnownPathThatOpens) {
  start();
  const auto told = [this](const Path& path) {
    events.clear();
    agent.handle_punch(path, now());
    drain();
    return std::count(events.begin(), events.end(), AgentEvent::Kind::punched);
  };
  EXPECT_EQ(told(kRelayed), 1);
  EXPECT_EQ(told({kSocket, {kGateway.address, 7777}, 1}), 0) << "a new path is news enough";
  EXPECT_EQ(told({kSocket, {kGateway.address, 7777}, 1}), 1);
  EXPECT_EQ(told({kSocket, endpoint("192.0.2.99:5"), 1}), 0) << "a stranger's";
  session_up();
  run(1s);
  EXPECT_EQ(told(kRelayed), 0) << "it answers";
}

// A relay restarts while its clients are all the gateway's STUN servers know: the gateway's list has its inside address
// only.
TEST_F(PathBench, WhereTheGatewayAnsweredOverARelayIsLetInByTheNextAllocation) {
  start();
  session_up(kRelayed);
  run(1s);
  const Endpoint inside = endpoint("203.0.113.77:51820");
  const LocalBase socket[] = {{kSocket, 0, true}};
  agent.set_bases(socket, false, now());
  agent.set_remote_candidates(std::vector<Candidate>{{CandidateKind::host, inside}}, now());
  const auto addresses = agent.remote_addresses();
  EXPECT_NE(std::find(addresses.begin(), addresses.end(), kGateway.address), addresses.end());
  const LocalBase again[] = {{kSocket, 0, true}, {kSocket, 2, true}};
  agent.set_bases(again, false, now());
  const Path punched{kSocket, {kGateway.address, 7777}, 2};
  agent.handle_punch(punched, now());
  EXPECT_EQ(agent.handshake_paths().front(), punched);
}

// trap: paths-3 - a repeated list starts the checks anew
TEST_F(PathBench, RepeatedCandidatesAreCheckedAgain) {
  links[kDirect].up = false;
  start();
  session_up();
  run(60s, 1);
  const std::size_t before = probes_on(kDirect);
  run(5s, 1);
  EXPECT_LE(probes_on(kDirect) - before, 1u);
  const Candidate candidates[] = {{CandidateKind::server_reflexive, kGateway}};
  agent.set_remote_candidates(candidates, now());
  run(1s, 1);
  EXPECT_GE(probes_on(kDirect) - before, 4u);
}

// ---- choice ----

TEST_F(PathBench, RelayFirstDirectAsSoonAsProved) {
  links[kRelayed].rtt = 30ms;
  start();
  session_up(kRelayed);
  EXPECT_EQ(agent.primary(), kRelayed);
  run(100ms, 100);
  EXPECT_EQ(agent.primary(), kDirect);
  EXPECT_EQ(agent.standby(), kRelayed);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_LE(changes[1].first - (time - 100ms), 40ms);
  run(60s, 100);
  EXPECT_EQ(changes.size(), 2u) << "no flapping";
  EXPECT_EQ(delivered.size(), sent);
}

TEST_F(PathBench, DirectDetourIsNotTaken) {
  links[kRelayed].rtt = 20ms;
  links[kDirect].rtt = 60ms;
  start();
  session_up(kRelayed);
  run(60s, 100);
  EXPECT_EQ(agent.primary(), kRelayed);
  EXPECT_EQ(agent.standby(), kDirect);
}

TEST_F(PathBench, BetterRelayIsTakenOnlyWhenClearlyBetterAndStable) {
  start({{kSocket, 1, true}, {kSocket, 2, true}});
  links[kRelayed].rtt = 50ms;
  links[kOtherRelay].rtt = 47ms;
  session_up(kRelayed);
  run(120s, 100);
  EXPECT_EQ(agent.primary(), kRelayed) << "6 % is no reason";
  links[kOtherRelay].rtt = 20ms;
  run(1s, 100);
  EXPECT_EQ(agent.primary(), kRelayed) << "the smoothed time must show it first";
  run(60s, 100);
  EXPECT_EQ(agent.primary(), kOtherRelay);
  EXPECT_EQ(delivered.size(), sent);
}

TEST_F(PathBench, OnlyThePrimarysProbesCarryARisingSwitchSequence) {
  start();
  session_up(kRelayed);
  run(2s, 50);
  links[kDirect].up = false;
  run(5s, 50);
  links[kDirect].up = true;
  run(30s, 50);
  std::uint32_t last = 0;
  std::size_t carrying = 0;
  for (const SentProbe& p : probes) {
    if (p.probe.switch_sequence == 0) continue;
    EXPECT_GT(p.probe.switch_sequence, last);
    last = p.probe.switch_sequence;
    ++carrying;
    const Path* primary_then = nullptr;
    for (const auto& [at, path] : changes)
      if (at <= p.at) primary_then = &path;
    ASSERT_NE(primary_then, nullptr);
    // At the instant of a change both may appear.
    const bool changed_now =
        std::any_of(changes.begin(), changes.end(), [&](const auto& c) { return c.first == p.at; });
    EXPECT_TRUE(changed_now || p.path == *primary_then);
  }
  EXPECT_GT(carrying, 100u);

  // A client that starts again later begins above everything it said before.
  PathAgent again{random, false, {}};
  const LocalBase bases[] = {{kSocket, 0, true}};
  time += 1s;
  again.set_bases(bases, false, now());
  again.handle_session_up(kDirect, now());
  again.handle_timeout(now());
  bool found = false;
  while (auto event = again.poll_event()) {
    if (event->kind != AgentEvent::Kind::send_probe) continue;
    const auto probe = wireguard::parse_probe(wireguard::parse_control(event->bytes)->payload);
    if (probe->switch_sequence == 0) continue;
    EXPECT_GT(probe->switch_sequence, last);
    found = true;
  }
  EXPECT_TRUE(found);
}

// ---- timers ----

TEST_F(PathBench, ProbeRatesFollowActivity) {
  start();
  session_up(kRelayed);
  run(5s, 20);
  ASSERT_EQ(agent.primary(), kDirect);
  const auto rate = [&](Duration how_long, unsigned packets) {
    const std::size_t primary_before = probes_on(kDirect);
    const std::size_t standby_before = probes_on(kRelayed);
    run(how_long, packets);
    return std::pair{probes_on(kDirect) - primary_before, probes_on(kRelayed) - standby_before};
  };
  const auto busy = rate(10s, 20);
  EXPECT_GE(busy.first, 50u);  // ≤ 200 ms apart
  EXPECT_LE(busy.first, 205u);
  EXPECT_GE(busy.second, 9u);
  EXPECT_LE(busy.second, 12u);
  run(3s);
  const auto active = rate(60s, 0);
  EXPECT_GE(active.first, 58u);
  EXPECT_LE(active.first, 62u);
  EXPECT_GE(active.second, 11u);
  EXPECT_LE(active.second, 13u);
  run(120s);
  const auto idle = rate(1000s, 0);
  EXPECT_GE(idle.first, 39u);
  EXPECT_LE(idle.first, 41u);
  EXPECT_GE(idle.second, 39u);
  EXPECT_LE(idle.second, 41u);
}

// trap: paths-7 - waking is immediate, whoever speaks first
TEST_F(PathBench, WakesAtOnceInBothDirections) {
  enum class By { packet, gateway, request };
  for (const By by : {By::packet, By::gateway, By::request}) {
    start();
    session_up(kRelayed);
    run(200s);
    ASSERT_EQ(agent.mode(time), PathAgent::Mode::idle);
    run(7s);
    const std::size_t before = probes_on(*agent.primary());
    if (by == By::packet)
      send();
    else if (by == By::gateway)
      agent.note_received(*agent.primary(), true, now());
    else
      agent.wake(now());  // a name is asked for: no packet of an application yet
    EXPECT_EQ(agent.mode(time), PathAgent::Mode::busy);
    run(1ms);
    EXPECT_EQ(probes_on(*agent.primary()), before + 1);
  }
}

// trap: paths-5 - not idle while a path is being lost or changed
TEST_F(PathBench, NotIdleWhileTheChangeIsUnderWay) {
  start();
  session_up(kRelayed);
  run(150s);
  ASSERT_EQ(agent.mode(time), PathAgent::Mode::idle);
  links[kDirect].up = links[kRelayed].up = false;
  for (int i = 0; i < 300 && !agent.suspect(); ++i) run(100ms);
  ASSERT_TRUE(agent.suspect());
  EXPECT_EQ(agent.mode(time), PathAgent::Mode::active);
  // The failure is dealt with at the pace of failure, not of idleness.
  const std::size_t before = probes.size();
  run(1s);
  EXPECT_GE(probes.size() - before, 10u);
  EXPECT_EQ(count(AgentEvent::Kind::stalled), 1u);
  links[kRelayed].up = true;
  run(26s);
  EXPECT_FALSE(agent.suspect());
  EXPECT_EQ(agent.primary(), kRelayed);
}

}  // namespace
}  // namespace penstock::paths
