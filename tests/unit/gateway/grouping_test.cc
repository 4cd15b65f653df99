// Grouping keeps the order within a group and loses nothing.
#include "dataplane/gateway/grouping.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <vector>

namespace penstock::gateway {
namespace {

TEST(Grouping, IsAStablePartitionByKey) {
  EXPECT_TRUE(rc::check([] {
    const auto n = *rc::gen::inRange<std::size_t>(0, kBurst + 1);
    const auto distinct = *rc::gen::inRange<std::uint32_t>(1, kBurst + 1);
    // Neighbouring keys, and keys that fall into one slot of the hash as often as into others.
    const auto spread = *rc::gen::element<std::uint32_t>(1, 128, 1U << 25);
    std::vector<std::uint32_t> keys;
    for (std::size_t i = 0; i < n; ++i) keys.push_back(*rc::gen::inRange<std::uint32_t>(0, distinct) * spread);
    Groups groups;
    group_by(keys.data(), n, groups);
    std::vector<std::uint32_t> seen;
    std::size_t covered = 0;
    for (unsigned g = 0; g < groups.count; ++g) {
      RC_ASSERT(groups.begin_of(g) < groups.end[g]);
      const std::uint32_t key = keys[groups.order[groups.begin_of(g)]];
      RC_ASSERT(std::find(seen.begin(), seen.end(), key) == seen.end());
      seen.push_back(key);
      for (unsigned i = groups.begin_of(g); i < groups.end[g]; ++i, ++covered) {
        RC_ASSERT(keys[groups.order[i]] == key);
        // RC_ASSERT evaluates both sides of ||
        if (i > groups.begin_of(g)) RC_ASSERT(groups.order[i] > groups.order[i - 1]);
      }
    }
    RC_ASSERT(covered == n);
  }));
}

}  // namespace
}  // namespace penstock::gateway
