// The NAT model against RFC 4787's definitions: what the simulation and the lab's wire believe about NATs.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "tests/model/link_model.h"
#include "tests/model/nat_box.h"
#include "tests/model/seeded_random.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Instant kStart{1h};

Endpoint at(const char* text) {
  return *Endpoint::parse(text);
}
const Endpoint kInside = at("10.1.0.2:40000"), kOther = at("10.1.0.3:40000");
const Endpoint kA1 = at("198.51.100.1:1000"), kA2 = at("198.51.100.1:2000"), kB1 = at("198.51.100.2:1000");
const IpAddress kOutside = *IpAddress::parse("203.0.113.7");

struct Box {
  explicit Box(const NatBehaviour& behaviour, std::vector<IpAddress> external = {kOutside})
      : nat(behaviour, std::move(external), random) {}
  SeededRandom random{7};
  NatBox nat;
};

TEST(NatBox, MappingDependsOnWhatItsKindSays) {
  for (const Dependence mapping : kDependences) {
    NatBehaviour behaviour;
    behaviour.mapping = mapping;
    Box box{behaviour};
    const auto a1 = box.nat.outbound(kInside, kA1, kStart), a2 = box.nat.outbound(kInside, kA2, kStart),
               b1 = box.nat.outbound(kInside, kB1, kStart);
    ASSERT_TRUE(a1 && a2 && b1);
    EXPECT_EQ(*a1 == *a2, mapping != Dependence::address_and_port) << behaviour.to_string();
    EXPECT_EQ(*a1 == *b1, mapping == Dependence::independent) << behaviour.to_string();
    EXPECT_EQ(box.nat.outbound(kInside, kA1, kStart + 1s), a1);
    EXPECT_NE(box.nat.outbound(kOther, kA1, kStart), a1);
  }
}

TEST(NatBox, FilterLetsInWhatItsKindSays) {
  for (const Dependence filtering : kDependences) {
    NatBehaviour behaviour;
    behaviour.filtering = filtering;
    Box box{behaviour};
    const Endpoint shown = *box.nat.outbound(kInside, kA1, kStart);
    EXPECT_EQ(box.nat.inbound(shown, kA1, kStart), kInside);
    EXPECT_EQ(box.nat.inbound(shown, kA2, kStart).has_value(), filtering != Dependence::address_and_port);
    EXPECT_EQ(box.nat.inbound(shown, kB1, kStart).has_value(), filtering == Dependence::independent);
    EXPECT_FALSE(box.nat.inbound({shown.address, static_cast<std::uint16_t>(shown.port ^ 1)}, kA1, kStart));
  }
}

TEST(NatBox, TimesOutAndIsRefreshedAsItsKindSays) {
  for (const bool by_inbound : {false, true}) {
    NatBehaviour behaviour;
    behaviour.timeout = 30s;
    behaviour.refreshed_by_inbound = by_inbound;
    Box box{behaviour};
    const Endpoint shown = *box.nat.outbound(kInside, kA1, kStart);
    EXPECT_TRUE(box.nat.inbound(shown, kA1, kStart + 29s));
    EXPECT_EQ(box.nat.inbound(shown, kA1, kStart + 31s).has_value(), by_inbound);
    EXPECT_FALSE(box.nat.inbound(shown, kA1, kStart + 200s));
    ASSERT_TRUE(box.nat.outbound(kInside, kA1, kStart + 300s));
    ASSERT_TRUE(box.nat.outbound(kInside, kA1, kStart + 325s));
    EXPECT_TRUE(box.nat.external_of(kInside, kA1, kStart + 350s, Transport::udp));
  }
}

// The failure that started it all: a mapping dies 30 minutes after its creation although packets pass all the time.
TEST(NatBox, HardLifeTimeEndsEachMappingByItself) {
  NatBehaviour behaviour;
  behaviour.mapping = Dependence::address_and_port;
  behaviour.lifetime = 30min;
  Box box{behaviour};
  const Endpoint first = *box.nat.outbound(kInside, kA1, kStart);
  Endpoint second{};
  for (Instant now = kStart; now < kStart + 30min; now += 10s) {
    EXPECT_EQ(box.nat.outbound(kInside, kA1, now), first);
    if (now >= kStart + 10min) second = *box.nat.outbound(kInside, kB1, now);
  }
  EXPECT_NE(box.nat.outbound(kInside, kA1, kStart + 30min), first);
  EXPECT_FALSE(box.nat.inbound(first, kA1, kStart + 30min));
  EXPECT_EQ(box.nat.outbound(kInside, kB1, kStart + 30min), second) << "it is ten minutes younger";
}

TEST(NatBox, PortsAreChosenAsItsKindSays) {
  for (const PortChoice ports : kPortChoices) {
    NatBehaviour behaviour;
    behaviour.ports = ports;
    behaviour.mapping = Dependence::address_and_port;
    Box box{behaviour};
    const Endpoint one = *box.nat.outbound(kInside, kA1, kStart), two = *box.nat.outbound(kOther, kA1, kStart),
                   three = *box.nat.outbound(kInside, kB1, kStart);
    if (ports == PortChoice::preserving || ports == PortChoice::overloading) {
      EXPECT_EQ(one.port, kInside.port);
      EXPECT_EQ(three.port, kInside.port) << "towards somebody else";
    }
    EXPECT_EQ(two == one, ports == PortChoice::overloading);
    if (ports == PortChoice::parity) {
      EXPECT_EQ(one.port % 2, 0);
      EXPECT_EQ(two.port % 2, 0);
      EXPECT_EQ(box.nat.outbound(at("10.1.0.4:40001"), kA1, kStart)->port % 2, 1);
    }
    if (ports == PortChoice::sequential) {
      EXPECT_EQ(two.port, one.port + 1);
    }
    EXPECT_GE(one.port, 1024);
  }
}

TEST(NatBox, OverloadedPortsAreToldApartByWhomTheySpokeTo) {
  NatBehaviour behaviour;
  behaviour.ports = PortChoice::overloading;
  behaviour.filtering = Dependence::address_and_port;
  Box box{behaviour};
  const Endpoint shown = *box.nat.outbound(kInside, kA1, kStart);
  ASSERT_EQ(box.nat.outbound(kOther, kB1, kStart), shown);
  EXPECT_EQ(box.nat.inbound(shown, kA1, kStart), kInside);
  EXPECT_EQ(box.nat.inbound(shown, kB1, kStart), kOther);
}

TEST(NatBox, SeveralAddressesPairedOrNot) {
  const std::vector<IpAddress> many = {kOutside, *IpAddress::parse("203.0.113.8"), *IpAddress::parse("203.0.113.9")};
  for (const Pooling pooling : {Pooling::paired, Pooling::arbitrary}) {
    NatBehaviour behaviour;
    behaviour.pooling = pooling;
    Box box{behaviour, many};
    std::set<IpAddress> seen;
    for (std::uint16_t port = 1000; port < 1040; ++port)
      seen.insert(box.nat.outbound({kInside.address, port}, kA1, kStart)->address);
    EXPECT_EQ(seen.size(), pooling == Pooling::paired ? 1u : 3u);
  }
}

TEST(NatBox, ForgetsAtOnceAndAtOtherAddresses) {
  Box box{{}};
  const Endpoint shown = *box.nat.outbound(kInside, kA1, kStart);
  box.nat.forget();
  EXPECT_FALSE(box.nat.inbound(shown, kA1, kStart));
  EXPECT_EQ(box.nat.mappings(), 0u);
  box.nat.set_external({*IpAddress::parse("203.0.113.99")});
  EXPECT_EQ(box.nat.outbound(kInside, kA1, kStart)->address.to_string(), "203.0.113.99");
  EXPECT_FALSE(box.nat.owns(kOutside));
}

// As Linux does: an unexpected packet that was not dropped occupies the port for its sender.
TEST(NatBox, UnexpectedInboundTakesThePort) {
  NatBehaviour behaviour;
  behaviour.ports = PortChoice::preserving;
  behaviour.inbound_takes_port = true;
  Box box{behaviour};
  EXPECT_FALSE(box.nat.inbound({kOutside, kInside.port}, kA1, kStart));
  EXPECT_NE(box.nat.outbound(kInside, kA1, kStart)->port, kInside.port);
  box.nat.forget();
  EXPECT_FALSE(box.nat.inbound({kOutside, kInside.port}, kA1, kStart));
  EXPECT_EQ(box.nat.outbound(kInside, kA1, kStart + 31s)->port, kInside.port);
}

// trap: nat-1 nat-26 - every port is found, also the last one, and then there is none
TEST(NatBox, EveryPortIsUsedBeforeItRunsOut) {
  for (const PortChoice ports : {PortChoice::random, PortChoice::sequential, PortChoice::preserving}) {
    NatBehaviour behaviour;
    behaviour.ports = ports;
    behaviour.first_port = 65500;
    Box box{behaviour};
    std::set<std::uint16_t> seen;
    for (std::uint16_t i = 0; i < 36; ++i) {
      const auto got = box.nat.outbound({kInside.address, static_cast<std::uint16_t>(100 + i)}, kA1, kStart);
      ASSERT_TRUE(got) << i;
      if (ports != PortChoice::preserving) seen.insert(got->port);
    }
    if (ports == PortChoice::preserving) continue;
    EXPECT_EQ(seen.size(), 36u);
    EXPECT_FALSE(box.nat.outbound(kOther, kA1, kStart));
  }
}

// Whatever happens: two inside endpoints never share an outside one (unless ports are overloaded), what goes out comes
// back to its sender, and nothing else gets in.
RC_GTEST_PROP(NatBoxProperty, WhatGoesOutComesBackToItsSender, ()) {
  NatBehaviour behaviour;
  behaviour.mapping = *rc::gen::elementOf(std::vector<Dependence>(std::begin(kDependences), std::end(kDependences)));
  behaviour.filtering = *rc::gen::elementOf(std::vector<Dependence>(std::begin(kDependences), std::end(kDependences)));
  behaviour.ports = *rc::gen::elementOf(
      std::vector<PortChoice>{PortChoice::random, PortChoice::preserving, PortChoice::parity, PortChoice::sequential});
  behaviour.timeout = std::chrono::seconds{*rc::gen::inRange(10, 60)};
  behaviour.first_port = 65000;
  Box box{behaviour};
  Instant now = kStart;
  std::map<std::pair<Endpoint, Endpoint>, std::pair<Endpoint, Instant>> shown;  // inside, remote
  const auto steps = *rc::gen::container<std::vector<std::uint32_t>>(rc::gen::arbitrary<std::uint32_t>());
  for (const std::uint32_t step : steps) {
    now += std::chrono::seconds{step % 7};
    const Endpoint inside{IpAddress::v4(0x0a010000 + (step >> 8) % 4), static_cast<std::uint16_t>(5000 + step % 3)};
    const Endpoint remote{IpAddress::v4(0xc6336400 + (step >> 16) % 3), static_cast<std::uint16_t>(7 + step % 2)};
    if (const auto external = box.nat.outbound(inside, remote, now)) {
      shown[{inside, remote}] = {*external, now};
      RC_ASSERT(box.nat.inbound(*external, remote, now) == std::optional{inside});
    }
    for (const auto& [who, what] : shown) {
      if (now - what.second >= behaviour.timeout) continue;
      for (const auto& [other, theirs] : shown)
        RC_ASSERT(now - theirs.second >= behaviour.timeout || other.first == who.first || theirs.first != what.first);
    }
  }
  RC_ASSERT(box.nat.mappings() <= steps.size());
}

TEST(Link, LosesDuplicatesAndDelaysAsToldAndDropsWhatIsTooBig) {
  Link link;
  link.latency = 10ms;
  link.jitter = 4ms;
  link.loss_permille = 100;
  link.duplicate_permille = 50;
  LinkModel model{link};
  SeededRandom random{3};
  unsigned lost = 0, copies = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto passage = model.enter(1000, kStart, random);
    lost += passage.fate == LinkModel::Fate::lost ? 1 : 0;
    copies += passage.copies;
    for (unsigned c = 0; c < passage.copies; ++c) {
      EXPECT_GE(passage.at[c], kStart + 10ms);
      EXPECT_LE(passage.at[c], kStart + 14ms);
    }
  }
  EXPECT_NEAR(lost, 2000, 200);
  EXPECT_NEAR(copies, 18'900, 300);
  EXPECT_EQ(model.enter(1501, kStart, random).fate, LinkModel::Fate::too_big);
  model.link.up = false;
  EXPECT_EQ(model.enter(100, kStart, random).fate, LinkModel::Fate::lost);
}

TEST(Link, LosesInBurstsAndAtTheSameRate) {
  Link link;
  link.loss_permille = 100;
  link.loss_burst = 8;
  LinkModel model{link};
  SeededRandom random{3};
  unsigned lost = 0, bursts = 0;
  bool before = false;
  for (int i = 0; i < 200'000; ++i) {
    const bool now = model.enter(100, kStart, random).fate == LinkModel::Fate::lost;
    lost += now ? 1 : 0;
    bursts += now && !before ? 1 : 0;
    before = now;
  }
  EXPECT_NEAR(lost, 20'000, 2500);
  EXPECT_NEAR(static_cast<double>(lost) / bursts, 8, 1.5);
}

TEST(Link, KeepsOrderUnlessToldToReorder) {
  Link link;
  link.jitter = 20ms;
  link.keeps_order = true;
  LinkModel model{link};
  SeededRandom random{3};
  Instant last{};
  unsigned overtaken = 0;
  for (int i = 0; i < 1000; ++i) {
    const Instant out = model.enter(100, kStart + i * 1ms, random).at[0];
    EXPECT_GE(out, last);
    last = out;
  }
  model.link.reorder_permille = 100;
  for (int i = 0; i < 1000; ++i) {
    const Instant out = model.enter(100, kStart + 2s + i * 1ms, random).at[0];
    overtaken += out < last ? 1 : 0;
    last = out;
  }
  EXPECT_GT(overtaken, 50u);
}

TEST(Link, BottleneckDelaysThenLoses) {
  Link link;
  link.latency = 1ms;
  link.rate = 100'000;
  link.queue = 10'000;
  LinkModel model{link};
  SeededRandom random{3};
  Duration longest{};
  unsigned lost = 0;
  for (int i = 0; i < 100; ++i) {  // 100 kB at once
    const auto passage = model.enter(1000, kStart, random);
    if (passage.fate == LinkModel::Fate::lost)
      ++lost;
    else
      longest = std::max(longest, passage.at[0] - kStart);
  }
  EXPECT_NEAR(lost, 90, 2);
  EXPECT_LE(longest, 112ms);
  EXPECT_GE(longest, 90ms);
}

}  // namespace
}  // namespace penstock::model
