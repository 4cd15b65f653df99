// Memory that is there before somebody waits for it, and no more of it than that.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>

#include <array>
#include <set>

#include "dataplane/core/base/slab.h"
#include "dataplane/core/wireguard/zeroed_array.h"
#include "tests/unit/page_faults.h"

namespace penstock {
namespace {

bool is_mapped(const void* at) {
  unsigned char state = 0;
  const auto page = reinterpret_cast<std::uintptr_t>(at) / 4096 * 4096;
  return ::mincore(reinterpret_cast<void*>(page), 1, &state) == 0 && (state & 1) != 0;
}

TEST(MapAhead, TheFrontOfATable) {
  ::mallopt(M_PERTURB, 0);  // meson's MALLOC_PERTURB_: memory from the system would be written to at once
  constexpr std::size_t kSize = std::size_t{64} << 20;
  const wireguard::ZeroedArray<std::uint8_t> table{kSize};
  EXPECT_FALSE(is_mapped(&table[100'000])) << "nothing is taken at first";
  table.map_front();
  EXPECT_TRUE(is_mapped(&table[0]));
  EXPECT_TRUE(is_mapped(&table[kMappedFront - 1]));
  EXPECT_FALSE(is_mapped(&table[kSize / 2]));
  const wireguard::ZeroedArray<std::uint8_t> small{100};
  small.map_front();  // and not beyond it
  EXPECT_EQ(small[99], 0);
}

TEST(MapAhead, PlacesOfASlab) {
  ::mallopt(M_PERTURB, 0);
  constexpr std::size_t kPlaces = 256;
  struct alignas(64) Thing {
    char bytes[1920];
  };
  Slab<sizeof(Thing)> slab;
  std::set<void*> taken;
  for (int round = 0; round < 20; ++round) {
    slab.map_ahead(kPlaces);
    slab.map_ahead(kPlaces);  // enough is enough
    std::array<void*, kPlaces> now{};
    const long before = page_faults();
    for (void*& place : now) static_cast<Thing*>(place = slab.take())->bytes[sizeof(Thing) - 1] = 1;
    EXPECT_LE(page_faults() - before, 2) << "round " << round;
    taken.insert(now.begin(), now.end());
  }
  EXPECT_EQ(taken.size(), 20 * kPlaces);
  for (void* place : taken) slab.give_back(place);
  slab.map_ahead(taken.size());
  EXPECT_TRUE(taken.contains(slab.take())) << "what was given back counts";
}

}  // namespace
}  // namespace penstock
