#include "dataplane/core/nat/ports.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <set>

#include "tests/path/world.h"

namespace penstock::nat {
namespace {

using path::SeededRandom;

IpAddress server(std::uint32_t n) {
  return IpAddress::v4(0xc6336400U + n);
}

// trap: nat-1, nat-26: whatever the range and the worker, every port can be had, none twice towards one destination,
// and refusal means that there is none.
TEST(PortSpace, AgreesWithASetOverRandomTraces) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    SeededRandom source{seed};
    BufferedRandom random{source};
    PortRangeOfWorker range;
    range.first = static_cast<std::uint16_t>(*rc::gen::inRange(0, 65536));
    range.last = static_cast<std::uint16_t>(std::min(65535, range.first + *rc::gen::inRange(0, 300)));
    range.workers = *rc::gen::inRange<std::uint16_t>(1, 5);
    range.worker = *rc::gen::inRange<std::uint16_t>(0, range.workers);
    PortSpace space{range, random};
    std::set<std::uint16_t> ours;
    for (std::uint32_t port = range.first; port <= range.last; ++port)
      if (range.mine(static_cast<std::uint16_t>(port))) ours.insert(static_cast<std::uint16_t>(port));

    std::map<std::uint32_t, std::set<std::uint16_t>> taken;  // per destination
    std::uint16_t proposed = 0;
    for (int step = 0; step < 1500; ++step) {
      const std::uint32_t to = random.below(4) == 0 ? random.below(3) : 0;  // one destination is crowded
      auto& here = taken[to];
      if (random.below(8) == 0 && !here.empty()) {
        auto victim = here.begin();
        std::advance(victim, random.below(static_cast<std::uint32_t>(here.size())));
        space.released(*victim, server(to), 80);
        here.erase(victim);
        continue;
      }
      const auto wanted = static_cast<std::uint16_t>(random.next_u32());
      // As a burst does it: proposed before others of the burst have taken theirs; or not at all.
      if (random.below(3) == 0) proposed = space.propose(wanted).value_or(0);
      if (random.below(3) == 0) proposed = 0;
      const auto port =
          space.choose(wanted, server(to), 80, [&](std::uint16_t p) { return here.contains(p); }, proposed);
      RC_ASSERT(port.has_value() == (here.size() < ours.size()));
      if (!port) continue;
      RC_ASSERT(ours.contains(*port));
      RC_ASSERT(!here.contains(*port));
      if (ours.contains(wanted) && !here.contains(wanted)) RC_ASSERT(*port == wanted);
      space.acquired(*port, server(to), 80);
      here.insert(*port);
    }
  }));
}

// 64 512 flows to one server: all succeed, and near the end the search stays short.
// trap: nat-26
TEST(PortSpace, TheLastPortIsFoundWithoutAScan) {
  SeededRandom source{3};
  BufferedRandom random{source};
  PortSpace space{PortRangeOfWorker{}, random};
  std::vector<bool> taken(65536, false);
  std::uint64_t probes = 0;
  for (std::uint32_t n = 1024; n < 65536; ++n) {
    // Every port has a user elsewhere, so that none is simply unused.
    space.acquired(static_cast<std::uint16_t>(n), server(9), 80);
  }
  for (std::uint32_t n = 0; n < 65536 - 1024; ++n) {
    const auto port = space.choose(static_cast<std::uint16_t>(random.next_u32()), server(1), 80, [&](std::uint16_t p) {
      ++probes;
      return taken[p];
    });
    ASSERT_TRUE(port) << n;
    taken[*port] = true;
    space.acquired(*port, server(1), 80);
  }
  EXPECT_FALSE(space.choose(1, server(1), 80, [&](std::uint16_t p) { return taken[p]; }));
  EXPECT_LT(probes, 8u * 65536u);
}

TEST(PortSpace, KeepsParityAndRangeClassWhenItCannotKeepThePort) {
  SeededRandom source{5};
  BufferedRandom random{source};
  PortSpace space{PortRangeOfWorker{1, 65535, 0, 1}, random};
  for (const std::uint16_t wanted :
       {std::uint16_t{501}, std::uint16_t{500}, std::uint16_t{40000}, std::uint16_t{40001}})
    for (int i = 0; i < 50; ++i) {
      const auto port = space.choose(wanted, server(1), 80, [&](std::uint16_t p) { return p == wanted; });
      ASSERT_TRUE(port);
      EXPECT_EQ(*port % 2, wanted % 2);
      EXPECT_EQ(*port < 1024, wanted < 1024);
    }
}

// What is proposed is what would be chosen: unused, of the same parity and class; and it is taken unless somebody has
// it.
TEST(PortSpace, ProposesWhatItWouldChoose) {
  SeededRandom source{7};
  BufferedRandom random{source};
  PortSpace space{PortRangeOfWorker{1, 65535, 0, 1}, random};
  for (int i = 0; i < 200; ++i) {
    const auto wanted = static_cast<std::uint16_t>(random.below(65535) + 1);
    const auto proposed = space.propose(wanted);
    ASSERT_TRUE(proposed);
    EXPECT_EQ(*proposed % 2, wanted % 2);
    EXPECT_EQ(*proposed < 1024, wanted < 1024);
    const auto port = space.choose(
        wanted, server(1), 80, [&](std::uint16_t p) { return p == wanted; }, *proposed);
    ASSERT_TRUE(port);
    EXPECT_TRUE(*port == *proposed || *proposed == wanted);
    space.acquired(*port, server(1), 80);
    const auto other = space.choose(
        wanted, server(1), 80, [&](std::uint16_t p) { return p == wanted || p == *port; }, *proposed);
    ASSERT_TRUE(other);
    EXPECT_NE(*other, *port) << "somebody has it by now";
  }
}

// RFC 6056: a client that cannot have its port is given one that nobody can foresee.
TEST(PortSpace, DrawsAtRandom) {
  SeededRandom source{6};
  BufferedRandom random{source};
  PortSpace space{PortRangeOfWorker{}, random};
  std::set<std::uint16_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(*space.choose(80, server(1), 80, [](std::uint16_t) { return false; }));
  EXPECT_GT(seen.size(), 950u);
}

}  // namespace
}  // namespace penstock::nat
