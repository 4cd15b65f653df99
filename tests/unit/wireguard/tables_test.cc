// The Device's small data structures against naive models.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

#include "dataplane/core/wireguard/index_table.h"
#include "dataplane/core/wireguard/key_index.h"
#include "dataplane/core/wireguard/timer_heap.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

RC_GTEST_PROP(TimerHeap, GivesTheEarliest, (std::vector<std::pair<std::uint8_t, std::uint16_t>> steps)) {
  TimerHeap heap;
  std::map<PeerIndex, Instant> model;
  for (const auto& [peer, time] : steps) {
    const Instant at = time % 5 == 0 ? kNever : Instant(Duration(time));
    heap.set(peer, at);
    if (at == kNever) {
      model.erase(peer);
    } else {
      model[peer] = at;
    }
    RC_ASSERT(heap.empty() == model.empty());
    if (model.empty()) continue;
    const auto earliest =
        std::min_element(model.begin(), model.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    RC_ASSERT(heap.next_at() == earliest->second);
    RC_ASSERT(model.at(heap.next_peer()) == earliest->second);
  }
}

RC_GTEST_PROP(KeyIndex, FindsWhatIsIn, (std::vector<std::pair<bool, std::uint8_t>> steps)) {
  SeededRandom random(1);
  KeyIndex index(random);
  std::vector<PublicKey> keys(256);
  for (auto& key : keys) random.fill(key.bytes);
  const auto key_of = [&](PeerIndex peer) -> const PublicKey& { return keys[peer]; };
  std::set<PeerIndex> in;
  for (const auto& [insert, peer] : steps) {
    if (insert && in.insert(peer).second) index.insert(peer, key_of);
    if (!insert && in.erase(peer) != 0) index.erase(peer, key_of);
    for (PeerIndex other = 0; other < keys.size(); ++other)
      RC_ASSERT(index.find(keys[other], key_of) == (in.contains(other) ? other : kNoPeer));
  }
}

TEST(IndexTable, OwnsByWholeIndex) {
  SeededRandom random(1);
  IndexTable table(100);
  std::map<std::uint32_t, PeerIndex> model;
  for (PeerIndex peer = 0; peer < 100; ++peer) {
    const auto index = table.allocate(peer, random);
    ASSERT_TRUE(index);
    EXPECT_TRUE(model.emplace(*index, peer).second);
  }
  EXPECT_EQ(table.allocate(5, random), std::nullopt) << "full";
  for (const auto& [index, peer] : model) {
    EXPECT_EQ(table.owner(index), peer);
    EXPECT_EQ(table.owner(index ^ 0x80000000), kNoPeer) << "the slot is right, the tag is not";
    table.release(index ^ 0x80000000);  // nobody's: no effect
    EXPECT_EQ(table.owner(index), peer);
  }
  EXPECT_EQ(table.used(), 100U);
  for (const auto& [index, peer] : model) {
    table.release(index);
    table.release(index);
    EXPECT_EQ(table.owner(index), kNoPeer);
  }
  EXPECT_EQ(table.used(), 0U);
}

// A table for many costs what the few in it need: their slots lie close together, and tags stay random.
TEST(IndexTable, FewOwnersOfALargeTableLieCloseTogether) {
  SeededRandom random(2);
  constexpr std::size_t kMost = 4'000'000;
  IndexTable table(kMost);
  const auto slot_mask = static_cast<std::uint32_t>(IndexTable::slots_for(kMost) - 1);
  std::set<std::uint32_t> tags;
  std::vector<std::uint32_t> indices;
  for (PeerIndex peer = 0; peer < 50'000; ++peer) {
    const auto index = table.allocate(peer, random);
    ASSERT_TRUE(index);
    EXPECT_LT(*index & slot_mask, 131'072U);
    tags.insert(*index & ~slot_mask);
    indices.push_back(*index);
  }
  EXPECT_GT(tags.size(), 100U);
  for (PeerIndex peer = 0; peer < indices.size(); ++peer) EXPECT_EQ(table.owner(indices[peer]), peer);
}

}  // namespace
}  // namespace penstock::wireguard
