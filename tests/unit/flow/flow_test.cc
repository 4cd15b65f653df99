#include <gtest/gtest.h>
#include <malloc.h>
#include <rapidcheck.h>
#include <sys/mman.h>

#include <map>
#include <set>
#include <thread>

#include "dataplane/core/flow/table.h"

namespace penstock::flow {
namespace {

class SeededRandom : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_{seed} {}
  void fill(std::span<std::uint8_t> out) override {
    for (std::uint8_t& byte : out) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      byte = static_cast<std::uint8_t>(state_ >> 56);
    }
  }

 private:
  std::uint64_t state_;
};

TEST(TimingWheel, AgreesWithAnOrderedMapAtAnyBudget) {
  EXPECT_TRUE(rc::check([] {
    constexpr Slot kSlotsUsed = 24;
    TimingWheel wheel{kSlotsUsed};
    std::map<Slot, Tick> model;
    Tick now = 0;
    bool advanced = false;  // to now: what is scheduled for it comes with the next tick
    for (int step = 0; step < 120; ++step) {
      const auto slot = *rc::gen::inRange<Slot>(0, kSlotsUsed);
      const auto kind = *rc::gen::inRange(0, 4);
      // Times near and far, over every level.
      const Tick delta = *rc::gen::inRange<Tick>(0, 1U << *rc::gen::inRange(1, 23));
      if (kind <= 1) {
        wheel.schedule(slot, now + delta);
        model[slot] = now + (advanced ? std::max<Tick>(delta, 1) : delta);
      } else if (kind == 2) {
        wheel.cancel(slot);
        model.erase(slot);
      } else {
        now += delta;
        advanced = true;
        const auto budget = *rc::gen::inRange<std::uint32_t>(1, 8);
        std::set<Slot> due;
        while (!wheel.advance(now, budget, [&](Slot s) { RC_ASSERT(due.insert(s).second); })) {
        }
        std::set<Slot> expected;
        for (const auto& [s, at] : model)
          if (at <= now) expected.insert(s);
        RC_ASSERT(due == expected);
        for (const Slot s : expected) model.erase(s);
        const auto next = wheel.next();
        RC_ASSERT(next.has_value() == !model.empty());
        if (next) {
          RC_ASSERT(*next > now);
          for (const auto& entry : model) RC_ASSERT(*next <= entry.second);
        }
      }
      RC_ASSERT(wheel.size() == model.size());
    }
  }));
}

TEST(TimingWheel, ADueSlotMayBeScheduledAgain) {
  TimingWheel wheel{1};
  wheel.schedule(0, 10);
  int fired = 0;
  EXPECT_TRUE(wheel.advance(5000, 1000, [&](Slot s) {
    if (++fired < 3) wheel.schedule(s, static_cast<Tick>(fired) * 1000);
  }));
  EXPECT_EQ(fired, 3);
  EXPECT_FALSE(wheel.next());
}

FlowRecord record_of(std::uint32_t n, PeerIndex peer) {
  FlowRecord r{};
  r.inside_source = IpAddress::v4(0x64400000 + n % 7);
  r.inside_destination = IpAddress::v4(0x64600000 + n % 11);
  r.inside_source_port = static_cast<std::uint16_t>(n);
  r.inside_destination_port = 80;
  r.peer = peer;
  r.protocol = 6;
  r.source_address = 0;
  r.source_port = static_cast<std::uint16_t>(n);
  r.remote = IpAddress::v4(0xc6336400 + n / 65536);
  r.remote_port = 80;
  return r;
}

const IpAddress kOurs = IpAddress::v4(0xcb007101);

OutsideKey outside_of(const FlowRecord& r) {
  return {kOurs, r.remote, r.source_port, r.remote_port, r.protocol};
}

TEST(FlowTable, AgreesWithAMapOverRandomTraces) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    SeededRandom random{seed};
    constexpr std::uint32_t kCapacity = 64;
    FlowTable table{kCapacity, 4, random};
    std::map<std::uint32_t, Slot> model;
    for (int step = 0; step < 400; ++step) {
      const std::uint32_t n = random.below(100);
      const FlowRecord r = record_of(n, n % 4);
      const auto in = table.hash(r.inside_key());
      const auto out = table.hash(outside_of(r));
      const Slot found = table.find(r.inside_key(), in);
      RC_ASSERT(found == table.find(outside_of(r), 0, out));
      RC_ASSERT(found == (model.contains(n) ? model[n] : kNoSlot));
      if (found != kNoSlot) {
        table.erase(found, out);
        model.erase(n);
      } else {
        const Slot slot = table.insert(r, in, out);
        RC_ASSERT((slot == kNoSlot) == (model.size() == kCapacity));
        if (slot != kNoSlot) model[n] = slot;
      }
      RC_ASSERT(table.size() == model.size());
    }
    std::array<std::uint32_t, 4> per_peer{};
    for (const auto& entry : model) ++per_peer[entry.first % 4];
    for (PeerIndex peer = 0; peer < 4; ++peer) RC_ASSERT(table.peer_flows(peer) == per_peer[peer]);
  }));
}

TEST(FlowTable, HoldsItsFullCapacity) {
  SeededRandom random{1};
  constexpr std::uint32_t kCapacity = 200000;
  FlowTable table{kCapacity, 1, random};
  for (std::uint32_t n = 0; n < kCapacity; ++n) {
    const FlowRecord r = record_of(n, 0);
    ASSERT_NE(table.insert(r, table.hash(r.inside_key()), table.hash(outside_of(r))), kNoSlot) << n;
  }
  const FlowRecord one_more = record_of(kCapacity, 0);
  EXPECT_EQ(table.insert(one_more, table.hash(one_more.inside_key()), table.hash(outside_of(one_more))), kNoSlot);
  for (std::uint32_t n = 0; n < kCapacity; ++n) {
    const FlowRecord r = record_of(n, 0);
    const Slot slot = table.find(r.inside_key(), table.hash(r.inside_key()));
    ASSERT_NE(slot, kNoSlot);
    table.erase(slot, table.hash(outside_of(r)));
  }
  EXPECT_EQ(table.size(), 0u);
}

bool is_mapped(const FlowRecord& record) {
  const auto page = reinterpret_cast<std::uintptr_t>(&record) / 4096 * 4096;
  unsigned char state = 0;
  return ::mincore(reinterpret_cast<void*>(page), 1, &state) == 0 && (state & 1) != 0;
}

// The next flows' memory is there before they are, more of it the faster they come, and never all of a large table.
TEST(FlowTable, MemoryIsMappedAheadOfFlows) {
  ::mallopt(M_PERTURB, 0);  // meson's MALLOC_PERTURB_: memory from the system would be written to at once
  SeededRandom random{9};
  constexpr std::uint32_t kCapacity = 1U << 20;
  FlowTable table{kCapacity, 16, random};
  EXPECT_FALSE(is_mapped(table[1U << 14])) << "nothing is taken at first";
  table.map_ahead();
  EXPECT_TRUE(is_mapped(table[0]));
  EXPECT_TRUE(is_mapped(table[(1U << 15) - 64]));
  EXPECT_FALSE(is_mapped(table[1U << 18]));
  constexpr std::uint32_t kFlows = 50000;
  for (std::uint32_t n = 0; n < kFlows; ++n) {
    const FlowRecord r = record_of(n, n % 16);
    ASSERT_NE(table.insert(r, table.hash(r.inside_key()), table.hash(outside_of(r))), kNoSlot);
  }
  table.map_ahead();
  EXPECT_TRUE(is_mapped(table[kFlows + 3 * kFlows])) << "they came quickly";
  EXPECT_FALSE(is_mapped(table[kCapacity - 1]));
  FlowRecord seen{};
  for (std::uint32_t n = 0; n < kFlows; ++n) ASSERT_TRUE(table.copy(n, seen)) << "contents stay";
}

// A reader on another thread never sees half of one flow and half of another.
TEST(FlowTable, CopiesAreOfOneMoment) {
  SeededRandom random{7};
  FlowTable table{4, 16, random};
  std::atomic<bool> stop{false};
  std::thread reader{[&] {
    FlowRecord seen{};
    while (!stop.load()) {
      for (Slot slot = 0; slot < table.high_water(); ++slot)
        if (table.copy(slot, seen)) {
          ASSERT_EQ(seen.source_port, seen.inside_source_port);
          ASSERT_EQ(seen.peer, seen.source_port % 16u);
        }
    }
  }};
  for (std::uint32_t n = 0; n < 40000; ++n) {
    const FlowRecord r = record_of(n % 60000, n % 16);
    const auto out = table.hash(outside_of(r));
    const Slot slot = table.insert(r, table.hash(r.inside_key()), out);
    table.store<std::uint64_t>(slot, &FlowRecord::packets_up, n);
    table.erase(slot, out);
  }
  stop = true;
  reader.join();
}

}  // namespace
}  // namespace penstock::flow
