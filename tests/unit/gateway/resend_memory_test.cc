// The blocks of copies are mapped before a worker writes to them, and not all at once.
#include <gtest/gtest.h>
#include <malloc.h>

#include "dataplane/core/base/huge_pages.h"
#include "dataplane/gateway/resend.h"
#include "tests/unit/gateway/builder.h"
#include "tests/unit/page_faults.h"

namespace penstock::gateway::test {
namespace {

using namespace std::chrono_literals;

// Keeps what fills `blocks` blocks, for peers that keep 8 each; returns the page faults that took.
[[maybe_unused]] long keep_blocks(ResendStore& store, PeerIndex& peer, std::size_t blocks, Instant now) {
  constexpr std::size_t kPerPeer = 8;
  const Octets datagram(1400, 1);
  const std::size_t wanted = store.blocks_used() + blocks;
  const long before = page_faults();
  while (store.blocks_used() < wanted) {
    if (store.keep(peer, datagram, now) == ResendStore::Kept::too_fast) {
      ADD_FAILURE() << "not kept, for peer " << peer;
      return 0;
    }
    if (store.bytes(peer) >= kPerPeer * ResendStore::kBlockSize - 2 * datagram.size()) ++peer;
  }
  return page_faults() - before;
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their shadow memory takes pages of its own
TEST(ResendStore, AWorkerFindsItsBlocksMapped) {
  ::mallopt(M_PERTURB, 0);  // meson's MALLOC_PERTURB_: memory from the system would be written to at once
  constexpr std::size_t kPeers = 4096;
  constexpr std::size_t kBlocks = 1024;
  constexpr std::size_t kPortion = kMappedFront / ResendStore::kBlockSize;
  ResendGates gates{kPeers};
  ResendStore store{gates, kPeers, kBlocks};
  PeerIndex peer = 0;
  Instant now{1h};
  long taken = 0;
  for (std::size_t round = 0; round < kBlocks / kPortion; ++round, now += 1s) {
    store.map_ahead();
    store.map_ahead();  // enough is enough
    taken += keep_blocks(store, peer, kPortion / 2, now);
  }
  EXPECT_EQ(taken, 0) << "pages, in eight megabytes";
  // Where nobody has been pages are taken, large ones perhaps: the counting above means something.
  (void)keep_blocks(store, peer, kPortion, now);
  EXPECT_GT(keep_blocks(store, peer, 2 * kPortion, now), 0);
}
#endif

}  // namespace
}  // namespace penstock::gateway::test
