// Names in the agent: ResolveName, refresh, and what the client is told when.
#include <gmock/gmock.h>

#include "tests/unit/agent/agent_bench.h"

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

class Names : public testing::Test, protected AgentBench {
 protected:
  Names() {
    up();
    welcome({authorisation(1), authorisation(2)});
  }
};

TEST_F(Names, TheReplyComesAfterTheDataPlaneKnows) {
  hold_applies = true;
  resolve(1, "a.corp.example");
  EXPECT_EQ(reply(7), nullptr);
  hold_applies = false;
  release_apply();
  ASSERT_NE(reply(7), nullptr);
  EXPECT_EQ(reply(7)->name_status().state(), v1::NameStatus::STATE_RESOLVING);
  EXPECT_EQ(notice(), nullptr);
  answer_all();
  ASSERT_NE(notice(), nullptr);
  EXPECT_EQ(notice()->state(), v1::NameStatus::STATE_ACTIVE);
  EXPECT_EQ(notice()->name(), "a.corp.example");
  resolve(1, "a.corp.example", "100.96.0.1", 8);  // known: the whole answer at once
  EXPECT_EQ(reply(8)->name_status().state(), v1::NameStatus::STATE_ACTIVE);
}

TEST_F(Names, ANoticeIsRepeatedUntilItIsAcknowledged) {
  resolve(1, "a.corp.example");
  controls.clear();
  answer_all();
  ASSERT_EQ(controls.size(), 1u);
  const std::uint64_t id = controls[0].second.id();
  advance(1s);
  EXPECT_EQ(controls.size(), 3u);  // after 250 and 750 ms
  v1::Control acknowledgement;
  acknowledgement.set_id(id);
  acknowledgement.set_reply(true);
  acknowledgement.mutable_acknowledge();
  control(1, acknowledgement);
  advance(20s);
  EXPECT_EQ(controls.size(), 3u);
}

TEST_F(Names, RefusesWhatTheClientHasNoRightTo) {
  struct Case {
    const char* what;
    std::uint8_t client;
    const char* resource;
    const char* name;
    const char* proxy;
  };
  for (const Case& c : {Case{"outside the pattern", 1, "corp", "a.other.example", "100.96.0.1"},
                        Case{"another resource", 1, "secret", "a.corp.example", "100.96.0.1"},
                        Case{"proxy address outside the pool", 1, "corp", "a.corp.example", "203.0.113.1"},
                        Case{"not a name", 1, "corp", "a..corp.example", "100.96.0.1"},
                        Case{"trailing pattern", 1, "corp", "corp.example.evil", "100.96.0.1"}}) {
    controls.clear();
    resolve(c.client, c.name, c.proxy, 7, c.resource);
    ASSERT_NE(reply(7), nullptr) << c.what;
    EXPECT_EQ(reply(7)->name_status().state(), v1::NameStatus::STATE_FORBIDDEN) << c.what;
  }
  EXPECT_TRUE(dataplane.translations.empty());
  EXPECT_EQ(questions, 0u);
  EXPECT_EQ(agent->counters().names_refused, 5u);
  resolve(3, "a.corp.example");  // an unknown peer gets nothing at all
  EXPECT_EQ(agent->counters().control_malformed, 1u);
}

// trap: nat-17, flow-3
TEST_F(Names, AMissingNameIsMissingAndAForbiddenOneForbidden) {
  struct Case {
    const char* what;
    DnsAnswer v4, v6;
    v1::PeerTranslation::State state;
    std::size_t addresses;
  };
  for (const Case& c : {
           Case{"NXDOMAIN", missing(), missing(), v1::PeerTranslation::STATE_NO_SUCH_NAME, 0},
           Case{"no addresses", nothing(), nothing(), v1::PeerTranslation::STATE_NO_SUCH_NAME, 0},
           Case{"only IPv6", nothing(), found({"2001:db8:1a::80"}), v1::PeerTranslation::STATE_ACTIVE, 1},
           // trap: nat-16
           Case{"IPv4 fails", failure(), found({"2001:db8:1a::80"}), v1::PeerTranslation::STATE_ACTIVE, 1},
           Case{"both fail", failure(), failure(), v1::PeerTranslation::STATE_FAILED, 0},
           Case{"one fails, one has none", failure(), missing(), v1::PeerTranslation::STATE_FAILED, 0},
           Case{"loopback", found({"127.0.0.1"}), nothing(), v1::PeerTranslation::STATE_FORBIDDEN, 0},
           Case{"the gateway itself", found({"203.0.113.1"}), nothing(), v1::PeerTranslation::STATE_FORBIDDEN, 0},
           Case{"another client", found({"100.64.0.9"}), nothing(), v1::PeerTranslation::STATE_FORBIDDEN, 0},
           Case{"metadata, embedded", nothing(), found({"64:ff9b::a9fe:a9fe"}), v1::PeerTranslation::STATE_FORBIDDEN,
                0},
           Case{"metadata, mapped", nothing(), found({"2002:a9fe:a9fe::1"}), v1::PeerTranslation::STATE_FORBIDDEN, 0},
           Case{"good and bad", found({"127.0.0.1", "203.0.113.80"}), nothing(), v1::PeerTranslation::STATE_ACTIVE, 1},
       }) {
    AgentBench bench;
    bench.up();
    bench.welcome({authorisation(1)});
    bench.zone = [&](const std::string&, Family family) { return family == Family::v4 ? c.v4 : c.v6; };
    bench.resolve(1, "a.corp.example");
    bench.answer_all();
    ASSERT_NE(bench.translation("a.corp.example"), nullptr) << c.what;
    EXPECT_EQ(bench.translation("a.corp.example")->state(), c.state) << c.what;
    EXPECT_EQ(bench.addresses("a.corp.example").size(), c.addresses) << c.what;
  }
}

// trap: nat-18, dns-16
TEST_F(Names, SilenceFailsWithinTwoSecondsAndALateAnswerStillCounts) {
  auto_dns = false;
  resolve(1, "a.corp.example");
  const auto late = waiting;
  advance(1999ms);
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_RESOLVING);
  advance(1ms);
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_FAILED);
  ASSERT_NE(notice(), nullptr);
  EXPECT_EQ(notice()->state(), v1::NameStatus::STATE_FAILED);
  agent->handle_answer(late[0].id, found({"203.0.113.80"}), now);
  run();
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_ACTIVE);
}

// Each family's answer that comes when the round has been given up was counted as a failure of its own: two rounds, and
// the name was not asked for again for half a minute.
TEST_F(Names, LateFailuresAreThoseOfTheRoundThatIsOver) {
  auto_dns = false;
  for (const Duration wait : {1s, 2s}) {
    resolve(1, "a.corp.example");
    ASSERT_EQ(waiting.size(), 2u);
    const auto late = waiting;
    waiting.clear();
    advance(2s);
    for (const DnsQuestion& question : late) agent->handle_answer(question.id, failure(), now);
    run();
    resolve(1, "a.corp.example");
    EXPECT_TRUE(waiting.empty()) << "too soon";
    advance(wait);
  }
  zone = [](const std::string&, Family family) { return family == Family::v4 ? found({"203.0.113.80"}) : nothing(); };
  resolve(1, "a.corp.example");
  ASSERT_EQ(waiting.size(), 2u);
}

TEST_F(Names, TheFirstFamilyIsUsedAtOnce) {
  auto_dns = false;
  resolve(1, "a.corp.example");
  ASSERT_EQ(waiting.size(), 2u);
  agent->handle_answer(waiting[1].id, found({"2001:db8:1a::80"}), now);
  run();
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("2001:db8:1a::80"));
  agent->handle_answer(waiting[0].id, found({"203.0.113.80"}), now);
  run();
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80", "2001:db8:1a::80"));
}

// trap: nat-3, trap: nat-13, trap: nat-14
TEST_F(Names, AreRefreshedWhileInUseAndStaleOnesServedWhileThatFails) {
  std::vector<const char*> zone_v4 = {"203.0.113.80", "203.0.113.81"};
  bool broken = false;
  zone = [&](const std::string&, Family family) {
    if (broken) return failure();
    return family == Family::v4 ? found(zone_v4, 30) : nothing();
  };
  resolve(1, "a.corp.example");
  answer_all();
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80", "203.0.113.81"));
  const auto live = [&](Duration time) {
    for (Duration at{}; at < time; at += 1s) {
      use_all();
      advance(1s);
    }
  };
  zone_v4 = {"203.0.113.81", "203.0.113.80"};  // rotated: nobody moves
  live(35s);
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80", "203.0.113.81"));
  zone_v4 = {"203.0.113.82", "203.0.113.81"};
  live(35s);
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.81", "203.0.113.82"));
  broken = true;
  live(300s);
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.81", "203.0.113.82"));
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_ACTIVE);
  const std::size_t before = questions;
  live(60s);
  EXPECT_LE(questions - before, 6u);  // not hammered
  broken = false;
  zone_v4 = {"203.0.113.90"};
  live(90s);
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.90"));
}

TEST_F(Names, AnIdleNameIsNotAskedAgainUntilItIsUsed) {
  resolve(1, "a.corp.example");
  answer_all();
  const std::size_t before = questions;
  advance(1h);
  EXPECT_EQ(questions, before);
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80"));  // the first packet need not wait
  zone = [](const std::string&, Family family) { return family == Family::v4 ? found({"203.0.113.99"}) : nothing(); };
  use_all();
  answer_all();
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.99"));
}

// trap: flow-3
TEST_F(Names, AFailedNameIsAskedAgainWhenWantedButNotForEver) {
  bool broken = true;
  zone = [&](const std::string&, Family family) {
    return broken ? failure() : family == Family::v4 ? found({"203.0.113.80"}) : nothing();
  };
  resolve(1, "a.corp.example");
  answer_all();
  std::size_t before = questions;
  advance(10min);
  EXPECT_EQ(questions, before);  // not by itself
  v1::Event wanted;
  wanted.mutable_translation_wanted()->set_peer(key_text(1));
  wanted.mutable_translation_wanted()->set_proxy_address(to_wire(*IpAddress::parse("100.96.0.1")));
  for (int i = 0; i < 1000; ++i) {  // packet after packet
    agent->handle_event(wanted, now);
    run();
    answer_all();
    advance(10ms);
  }
  EXPECT_LE(questions - before, 10u);
  broken = false;
  advance(61s);
  agent->handle_event(wanted, now);
  run();
  answer_all();
  EXPECT_EQ(translation("a.corp.example")->state(), v1::PeerTranslation::STATE_ACTIVE);
}

// trap: flow-10
TEST_F(Names, ANameThatWasForgottenIsAskedOfTheClient) {
  const auto packet_for = [&](std::uint8_t client, const char* proxy) {
    v1::Event wanted;
    wanted.mutable_translation_wanted()->set_peer(key_text(client));
    wanted.mutable_translation_wanted()->set_proxy_address(to_wire(*IpAddress::parse(proxy)));
    controls.clear();
    agent->handle_event(wanted, now);
    run();
  };
  packet_for(1, "100.96.0.1");
  ASSERT_EQ(controls.size(), 1u);
  EXPECT_EQ(controls[0].first, key_text(1));
  ASSERT_EQ(controls[0].second.names_wanted().proxy_addresses_size(), 1);
  EXPECT_EQ(controls[0].second.names_wanted().proxy_addresses(0), to_wire(*IpAddress::parse("100.96.0.1")));
  packet_for(3, "100.96.0.1");  // nobody we know
  EXPECT_TRUE(controls.empty());
  packet_for(1, "203.0.113.80");  // no name's
  EXPECT_TRUE(controls.empty());
  resolve(1, "a.corp.example");
  packet_for(1, "100.96.0.1");  // known by now
  EXPECT_TRUE(controls.empty());
}

TEST_F(Names, IdenticalNamesShareOneResolution) {
  auto_dns = false;
  resolve(1, "a.corp.example");
  resolve(2, "A.corp.example.");
  EXPECT_EQ(waiting.size(), 2u);
  EXPECT_EQ(dataplane.translations.size(), 2u);
  answer_all();
  for (const auto& [id, it] : dataplane.translations) EXPECT_EQ(it.addresses_size(), 1);
}

TEST_F(Names, OneClientCannotStarveTheOthers) {
  auto_dns = false;
  for (std::uint32_t i = 0; i < 1000; ++i)
    resolve(1, "n" + std::to_string(i) + ".corp.example", IpAddress::v4(0x64600001U + i).to_string().c_str(), i + 100);
  EXPECT_EQ(waiting.size(), 2 * kMaxRoundsPerClient);
  resolve(2, "mine.corp.example");
  EXPECT_EQ(waiting.size(), 2 * kMaxRoundsPerClient + 2);
  EXPECT_EQ(waiting.back().name, "mine.corp.example");
  answer_all();  // answering makes room for those that wait
  std::size_t active = 0;
  std::size_t failed = 0;
  for (const auto& [id, it] : dataplane.translations) {
    active += it.state() == v1::PeerTranslation::STATE_ACTIVE;
    failed += it.state() == v1::PeerTranslation::STATE_FAILED;
  }
  EXPECT_EQ(active, 1 + kMaxRoundsPerClient + kMaxWaitingPerClient);
  EXPECT_EQ(failed, 1000 - kMaxRoundsPerClient - kMaxWaitingPerClient);
}

// trap: nat-25
TEST_F(Names, TranslationsPerClientAreBounded) {
  for (std::uint32_t i = 0; i < kMaxTranslationsPerPeer + 50; ++i)
    resolve(1, "n" + std::to_string(i) + ".corp.example", IpAddress::v4(0x64600001U + i).to_string().c_str(), i + 100);
  EXPECT_EQ(dataplane.translations.size(), kMaxTranslationsPerPeer);
}

// trap: nat-2
TEST_F(Names, TwoNamesMayHaveOneAddress) {
  resolve(1, "a.corp.example", "100.96.0.1", 7);
  resolve(1, "b.corp.example", "100.96.0.2", 8);
  answer_all();
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80"));
  EXPECT_THAT(addresses("b.corp.example"), ElementsAre("203.0.113.80"));
}

// trap: nat-15
TEST_F(Names, ARenumberedClientReplacesItsMap) {
  resolve(1, "a.corp.example", "100.96.0.1", 7);
  resolve(1, "b.corp.example", "100.96.0.2", 8);
  resolve(1, "b.corp.example", "100.96.0.1", 9);  // has a's address now
  answer_all();
  EXPECT_EQ(translation("a.corp.example"), nullptr);
  ASSERT_NE(translation("b.corp.example"), nullptr);
  EXPECT_EQ(address_from_wire(translation("b.corp.example")->proxy_v4())->to_string(), "100.96.0.1");
  EXPECT_EQ(agent->counters().apply_errors, 0u);
}

// trap: flow-5, trap: flow-6
// ... while the data plane is away: the addresses that it still has for other names are taken back before they are
// given.
TEST_F(Names, AMapThatWasRenumberedMeanwhileIsTakenOver) {
  resolve(1, "a.corp.example", "100.96.0.1");
  answer_all();
  agent->handle_dataplane_down(now);
  run();
  resolve(1, "b.corp.example", "100.96.0.1", 8);  // before the former's new address is known
  resolve(1, "a.corp.example", "100.96.0.2", 9);
  answer_all();
  up();
  answer_all();
  EXPECT_EQ(agent->counters().apply_errors, 0u);
  EXPECT_EQ(dataplane.translations.size(), 2u);
  ASSERT_NE(translation("b.corp.example"), nullptr);
  EXPECT_EQ(translation("b.corp.example")->proxy_v4(), to_wire(*IpAddress::parse("100.96.0.1")));
  EXPECT_EQ(translation("a.corp.example")->proxy_v4(), to_wire(*IpAddress::parse("100.96.0.2")));
}

TEST_F(Names, ANameUnderTwoResourcesBelongsToEachByItself) {
  v1::Resource other = corp();
  other.set_id("other");
  authorize(authorisation(1, other));
  resolve(1, "a.corp.example", "100.96.0.1", 7, "corp");
  resolve(1, "a.corp.example", "100.96.0.1", 8, "other");
  answer_all();
  EXPECT_EQ(dataplane.translations.size(), 2u);
  revoke("c1/corp");
  ASSERT_EQ(dataplane.translations.size(), 1u);
  EXPECT_EQ(dataplane.translations.begin()->second.resource(), "other");
  EXPECT_THAT(addresses("a.corp.example"), ElementsAre("203.0.113.80"));
}

}  // namespace
}  // namespace penstock::gateway_agent
