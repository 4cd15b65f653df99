#include "controlplane/core/paths/path_agent.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/paths/path_bench.h"

namespace penstock::paths {
namespace {

using State = PathInfo::State;

// ---- which paths there are ----

// trap: paths-15 paths-16 paths-17
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
  EXPECT_LE(busy.first, 135u);
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
  for (const bool we_speak : {true, false}) {
    start();
    session_up(kRelayed);
    run(200s);
    ASSERT_EQ(agent.mode(time), PathAgent::Mode::idle);
    run(7s);
    const std::size_t before = probes_on(*agent.primary());
    if (we_speak)
      send();
    else
      agent.note_received(*agent.primary(), true, now());
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

// ---- failure ----

TEST_F(PathBench, NoPacketIsLostWhenThePrimaryFails) {
  for (const unsigned rate : {10u, 100u, 1000u}) {
    for (const Duration rtt : {2ms, 20ms, 60ms}) {
      for (int phase = 0; phase < 5; ++phase) {
        links[kRelayed] = links[kDirect] = {true, rtt};
        agent.handle_session_down(now());
        start();
        session_up(kRelayed);
        run(70s + phase * 23ms, rate);
        ASSERT_EQ(agent.primary(), kDirect);
        const std::uint32_t first = sent;
        links[kDirect].up = false;
        const Instant failed = time;
        run(2s, rate);
        EXPECT_EQ(agent.primary(), kRelayed);
        EXPECT_EQ(lost_since(first), 0u) << rate << "/s, rtt " << rtt / 1ms << " ms";
        EXPECT_LE(changes.back().first - failed, 300ms + 4 * rtt);
      }
    }
  }
}

TEST_F(PathBench, ResentPacketsComeOldestFirstAndBeforeNewerOnes) {
  start();
  session_up(kRelayed);
  run(70s, 200);
  order.clear();
  links[kDirect].up = false;
  run(1s, 200);
  std::vector<std::uint32_t> firsts;
  std::set<std::uint32_t> seen;
  for (const std::uint32_t number : order)
    if (seen.insert(number).second) firsts.push_back(number);
  EXPECT_TRUE(std::is_sorted(firsts.begin(), firsts.end()));
}

// Above the bound there is fast fail-over but no flood of copies.
TEST_F(PathBench, CopiesAreBounded) {
  start();
  session_up(kRelayed);
  run(5s, 10000, 1200);
  links[kDirect].up = false;
  const std::size_t copies_before = copies;
  const std::uint32_t sent_before = sent;
  run(1s, 10000, 1200);
  const std::size_t extra = copies - copies_before - (sent - sent_before) + resent;
  EXPECT_LE(extra * 1200, 2u * 250'000);
  EXPECT_EQ(agent.primary(), kRelayed);
}

TEST_F(PathBench, NothingIsSentTwiceWithoutSuspicion) {
  start();
  session_up(kRelayed);
  run(60s, 500);
  EXPECT_EQ(copies, sent);
  EXPECT_EQ(resent, 0u);
}

TEST_F(PathBench, ReturnsToTheBetterPathWhenItIsStable) {
  start();
  session_up(kRelayed);
  run(10s, 100);
  links[kDirect].up = false;
  run(1s, 100);
  ASSERT_EQ(agent.primary(), kRelayed);
  links[kDirect].up = true;
  run(1s, 100);
  EXPECT_EQ(agent.primary(), kRelayed) << "not before it has proved stable";
  run(60s, 100);
  EXPECT_EQ(agent.primary(), kDirect);
}

TEST_F(PathBench, FlappingDirectPathIsLeftAloneForLonger) {
  start();
  session_up(kRelayed);
  run(5s, 50);
  for (int i = 0; i < 30; ++i) {
    links[kDirect].up = false;
    run(2s, 50);
    links[kDirect].up = true;
    run(8s, 50);
  }
  EXPECT_LE(changes.size(), 22u);
  EXPECT_EQ(delivered.size(), sent);
}

// A probe may be late under load while data flows: that is no failure.
TEST_F(PathBench, LateProbesAmongOtherTrafficAreNotTakenForLoss) {
  start();
  session_up(kRelayed);
  run(5s, 100);
  ASSERT_EQ(agent.primary(), kDirect);
  links[kDirect].rtt = 450ms;  // a full queue; the first answers come late
  for (int i = 0; i < 100; ++i) {
    agent.note_received(kDirect, true, now());
    run(10ms, 100);
  }
  EXPECT_EQ(count(AgentEvent::Kind::suspect), 0u);
}

// The gateway's keepalive reaches us although our probes do not reach it (its NAT has just been opened): no waiting for
// the next probe.
TEST_F(PathBench, WhatArrivesOnASuspectPathIsFollowedUpAtOnce) {
  start({{kSocket, 0, true}});
  session_up(kDirect);
  run(3s, 50);
  links[kDirect].up = false;
  run(320ms, 50);
  ASSERT_TRUE(agent.suspect());
  links[kDirect].up = true;
  run(3ms);
  const std::size_t before = probes_on(kDirect);
  time += 30ms - 3ms;
  agent.note_received(kDirect, false, now());
  agent.handle_timeout(now());
  drain();
  EXPECT_EQ(probes_on(kDirect), before + 1);
  // Many packets do not make many probes.
  for (int i = 0; i < 100; ++i) {
    agent.note_received(kDirect, true, now());
    if (agent.poll_timeout().at <= time) agent.handle_timeout(now());
  }
  drain();
  EXPECT_EQ(probes_on(kDirect), before + 1);
  run(1s, 50);
  EXPECT_FALSE(agent.suspect());
}

// Its NAT has forgotten: what it sends comes from another port. That is sooner than any answer is late.
TEST_F(PathBench, AGatewayThatSpeaksFromAnotherPortHasLostItsMappings) {
  start();
  session_up();
  run(2s, 50);
  ASSERT_EQ(agent.primary(), kDirect);
  ASSERT_EQ(agent.standby(), kRelayed);
  const Path renumbered{kSocket, endpoint("203.0.113.7:60001"), 1};
  links[kDirect].up = links[kRelayed].up = false;
  const Instant forgot = time;
  run(30ms, 50);
  agent.note_received(renumbered, false, now());
  drain();
  EXPECT_TRUE(agent.suspect());
  run(100ms, 50);
  EXPECT_EQ(agent.primary(), renumbered);
  EXPECT_LE(changes.back().first - forgot, 100ms);
  // A gateway that is known by several ports from the start is no news.
  run(2s, 50);
  EXPECT_FALSE(agent.suspect());
  const std::size_t before = count(AgentEvent::Kind::suspect);
  agent.note_received(renumbered, true, now());
  drain();
  EXPECT_EQ(count(AgentEvent::Kind::suspect), before);
}

// The forgetful NAT has ended the old ways over the relay too, though their last answers were fine: none of them is
// "better" than the one that works, and nothing is lost on the way.
TEST_F(PathBench, AnswersFromBeforeTheDoubtMakeNoPathBetter) {
  start();
  links[kRelayed].rtt = 20ms;
  session_up();
  run(15s, 1000);
  ASSERT_EQ(agent.primary(), kDirect);
  const std::uint32_t first = sent;
  const std::size_t known = changes.size();
  const Path renumbered{kSocket, endpoint("203.0.113.7:60001"), 1};
  links[renumbered].rtt = 45ms;  // a slow first answer: the old way looks much better
  links[kDirect].up = links[kRelayed].up = false;
  run(30ms, 1000);
  agent.note_received(renumbered, false, now());
  drain();
  run(3s, 1000);
  EXPECT_EQ(agent.primary(), renumbered);
  EXPECT_EQ(changes.size(), known + 1) << changes[known + 1].second.to_string();
  EXPECT_EQ(lost_since(first), 0u);
}

// Why the path in use was changed is remembered for whoever asks.
TEST_F(PathBench, TellsWhyThePathInUseWasChanged) {
  start();
  session_up();
  ASSERT_TRUE(agent.last_switch());
  EXPECT_EQ(agent.last_switch()->why, "the handshake was answered over it");
  run(1s, 50);
  EXPECT_EQ(agent.last_switch()->to, kDirect);
  EXPECT_EQ(agent.last_switch()->why, "it is direct");
  links[kDirect].up = false;
  run(1s, 50);
  EXPECT_EQ(agent.last_switch()->to, kRelayed);
  EXPECT_EQ(agent.last_switch()->why, "the former did not answer");
  EXPECT_LE(time - agent.last_switch()->at, 1s);
}

// trap: paths-10 - we were busy or stopped: the answers lie unread in the socket
TEST_F(PathBench, OurOwnLatenessIsNotAFailure) {
  start();
  session_up(kRelayed);
  run(5s, 100);
  for (int i = 0; i < 20; ++i) {
    time += 400ms;  // stopped; replies of that time are still to be read, after the timers
    agent.handle_timeout(now());
    drain();
    run(500ms, 100);
  }
  EXPECT_EQ(count(AgentEvent::Kind::suspect), 0u);
}

TEST_F(PathBench, SingleLostProbesDoNotMatter) {
  start();
  session_up(kRelayed);
  run(2s, 20);
  // One in ten replies is lost.
  for (int i = 0; i < 3000; ++i) {
    run(20ms, 50);
    if (!replies.empty() && random.chance(100)) replies.erase(replies.begin());
  }
  EXPECT_LE(count(AgentEvent::Kind::suspect), 12u);
  EXPECT_EQ(count(AgentEvent::Kind::stalled), 0u);
  EXPECT_EQ(delivered.size(), sent);
}

// All gone: said once, tried for ever with back-off, found again.
TEST_F(PathBench, UnreachableIsSaidOnceAndProbingNeverEnds) {
  start();
  session_up(kRelayed);
  run(5s, 50);
  links[kDirect].up = links[kRelayed].up = false;
  const Instant failed = time;
  run(500ms, 50);
  EXPECT_EQ(count(AgentEvent::Kind::unreachable), 0u);
  run(5s, 50);
  EXPECT_EQ(count(AgentEvent::Kind::stalled), 1u);
  EXPECT_EQ(count(AgentEvent::Kind::unreachable), 1u);
  run(10min, 1);
  EXPECT_EQ(count(AgentEvent::Kind::unreachable), 1u);
  std::size_t late = 0;
  for (const SentProbe& p : probes) late += p.at > failed + 60s ? 1 : 0;
  EXPECT_GE(late, 20u);
  EXPECT_LE(late, 400u);
  links[kDirect].up = true;
  const std::size_t before = changes.size();
  run(31s, 1);
  EXPECT_GT(changes.size(), before);
  EXPECT_EQ(agent.primary(), kDirect);
  EXPECT_FALSE(agent.suspect());
}

// trap: paths-14 paths-19 - allocations vanish, together and under the primary
TEST_F(PathBench, LostRelaysLeaveTheRest) {
  start();
  links[kDirect].up = false;
  session_up(kRelayed);
  run(5s, 50);
  ASSERT_EQ(agent.primary(), kRelayed);
  const LocalBase none[] = {{kSocket, 0, true}};
  agent.set_bases(none, false, now());
  drain();
  run(1s, 50);
  EXPECT_EQ(agent.primary(), kDirect) << "the only one left, working or not";
  // A new allocation, another number.
  const LocalBase anew[] = {{kSocket, 0, true}, {kSocket, 2, true}};
  agent.set_bases(anew, false, now());
  drain();
  run(500ms, 50);
  EXPECT_EQ(agent.primary(), kOtherRelay);
  for (const PathInfo& info : agent.show()) EXPECT_NE(info.path.relay, 1u);
}

TEST_F(PathBench, NoBaseAtAllAndBackAgain) {
  start();
  session_up(kRelayed);
  run(5s, 50);
  agent.set_bases({}, true, now());
  drain();
  run(10s);
  EXPECT_TRUE(agent.data_paths(std::vector<std::uint8_t>(64), now()).empty());
  EXPECT_EQ(count(AgentEvent::Kind::unreachable), 1u);
  start();
  run(200ms, 50);
  EXPECT_TRUE(agent.primary());
  EXPECT_FALSE(agent.suspect());
}

// trap: paths-6 - a new socket counts also while idle
TEST_F(PathBench, NewSocketWhileIdleIsProbedAtOnce) {
  start();
  session_up(kRelayed);
  run(300s);
  ASSERT_EQ(agent.mode(time), PathAgent::Mode::idle);
  const Endpoint fresh = endpoint("0.0.0.0:42000");
  const LocalBase bases[] = {{fresh, 0, true}, {fresh, 3, true}};
  agent.set_bases(bases, true, now());
  drain();
  run(200ms);
  ASSERT_TRUE(agent.primary());
  EXPECT_EQ(agent.primary()->local, fresh);
  EXPECT_FALSE(agent.suspect());
}

// trap: paths-20 - after a suspend everything is verified at once, and nothing is held against anybody
TEST_F(PathBench, ResumeVerifiesAtOnce) {
  start();
  session_up(kRelayed);
  run(10s, 50);
  replies.clear();
  time += 3h;
  agent.handle_resume(now());
  drain();
  EXPECT_GE(probes_on(kDirect), 1u);
  run(100ms);
  EXPECT_FALSE(agent.suspect());
  EXPECT_EQ(count(AgentEvent::Kind::unreachable), 0u);
  // Time that steps back is not believed.
  time -= 1h;
  agent.handle_timeout(now());
  EXPECT_GT(agent.poll_timeout().at, time);
  time += 1h;
  run(1s, 50);
  EXPECT_FALSE(agent.suspect());
}

TEST_F(PathBench, IcmpHintLooksButDoesNotJudge) {
  start();
  session_up(kRelayed);
  run(5s, 50);
  agent.handle_hint(endpoint("192.0.2.1:9"), now());
  EXPECT_FALSE(agent.suspect());
  agent.handle_hint(kGateway, now());
  EXPECT_TRUE(agent.suspect());
  drain();
  run(50ms);
  EXPECT_FALSE(agent.suspect());
  EXPECT_EQ(agent.primary(), kDirect);
}

TEST_F(PathBench, ForeignAndRepeatedRepliesChangeNothing) {
  start();
  session_up(kRelayed);
  run(1s, 50);
  wireguard::Probe forged;
  forged.type = wireguard::ControlType::probe_reply;
  forged.path = 1;
  forged.id = 42;
  EXPECT_EQ(agent.handle_probe_reply(wireguard::encode_probe(forged), now()), DropReason::local_consumed);
  forged.type = wireguard::ControlType::probe;
  EXPECT_EQ(agent.handle_probe_reply(wireguard::encode_probe(forged), now()), DropReason::control_malformed);
  EXPECT_EQ(agent.handle_probe_reply({}, now()), DropReason::control_malformed);
}

// trap: paths-21 - whatever happens, a timer that fired has moved on, and probing keeps a bounded rate
RC_GTEST_FIXTURE_PROP(PathBench, AnyScheduleIsFreeOfLiveLockAndFloods, ()) {
  start();
  session_up(kRelayed);
  const auto steps = *rc::gen::container<std::vector<int>>(60, rc::gen::inRange(0, 12));
  const Instant begin = time;
  for (const int step : steps) {
    switch (step) {
      case 0:
        links[kDirect].up = !links[kDirect].up;
        break;
      case 1:
        links[kRelayed].up = !links[kRelayed].up;
        break;
      case 2:
        links[kDirect].rtt = std::chrono::milliseconds{*rc::gen::inRange(1, 800)};
        break;
      case 3:
        agent.set_bases({}, *rc::gen::arbitrary<bool>(), now());
        break;
      case 4:
        start();
        break;
      case 5:
        agent.handle_session_down(now());
        break;
      case 6:
        session_up(*rc::gen::arbitrary<bool>() ? kRelayed : kDirect);
        break;
      case 7:
        time += std::chrono::milliseconds{*rc::gen::inRange(0, 100000)};
        break;
      case 8:
        agent.handle_resume(now());
        break;
      case 9:
        agent.handle_punch({kSocket, {kGateway.address, *rc::gen::arbitrary<std::uint16_t>()}, 1}, now());
        break;
      case 10:
        run(std::chrono::seconds{*rc::gen::inRange(1, 200)});
        break;
      default:
        run(500ms, 100);
        break;
    }
    drain();
    run(10ms);
    RC_ASSERT(!HasFatalFailure());
    RC_ASSERT(agent.show().size() <= PathAgent::kMaxPaths);
  }
  const auto seconds = static_cast<std::size_t>((time - begin) / 1s) + steps.size() + 1;
  RC_ASSERT(probes.size() <= seconds * 80 + steps.size() * 60);
}

}  // namespace
}  // namespace penstock::paths
