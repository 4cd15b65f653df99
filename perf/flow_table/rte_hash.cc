#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_malloc.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "dataplane/core/base/huge_pages.h"
#include "perf/flow_table/rival_hashes.h"

namespace penstock::perf {
namespace {

constexpr const char* kHeap = "large pages";
constexpr std::size_t kHeapSize = std::size_t{3} << 30;
constexpr std::size_t kLargePage = std::size_t{2} << 20;

// Their tables take 32 bits.
hash_sig_t signature(const flow::KeyHash& hash, const FlatKey& key) {
  const std::uint64_t value = hash(inside_key(key));
  return static_cast<hash_sig_t>(value ^ value >> 32);
}

}  // namespace

bool start_eal() {
  std::array<std::string, 8> words = {"perf-flow-table", "--no-huge", "--no-pci",      "--no-telemetry",
                                      "-m",              "64",      "--log-level=3", "--no-shconf"};
  std::array<char*, 8> arguments;
  for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  if (rte_eal_init(static_cast<int>(arguments.size()), arguments.data()) < 0) {
    std::fprintf(stderr, "DPDK does not start: %s\n", rte_strerror(rte_errno));
    return false;
  }
  // Without reserved huge pages its own memory is on small ones: it is given a heap like ours.
  void* memory = std::aligned_alloc(kLargePage, kHeapSize);
  ask_for_huge_pages(memory, kHeapSize);
  if (memory != nullptr && rte_malloc_heap_create(kHeap) == 0 &&
      rte_malloc_heap_memory_add(kHeap, memory, kHeapSize, nullptr, 0, kLargePage) == 0)
    return true;
  std::fprintf(stderr, "DPDK takes no memory on large pages: %s\n", rte_strerror(rte_errno));
  return false;
}

RteHash::RteHash(std::uint32_t count, Random& random) : hash_(random) {
  rte_hash_parameters parameters{};
  parameters.name = "rival";
  parameters.entries = count;
  parameters.key_len = sizeof(FlatKey);
  parameters.socket_id = rte_malloc_heap_get_socket(kHeap);
  parameters.extra_flag = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF | RTE_HASH_EXTRA_FLAGS_EXT_TABLE;
  table_ = rte_hash_create(&parameters);
  if (table_ == nullptr) {
    std::fprintf(stderr, "rte_hash of %u entries: %s\n", count, rte_strerror(rte_errno));
    std::exit(1);
  }
  for (std::uint32_t n = 0; n < count; ++n) {
    const FlatKey key = key_of(n);
    void* number = reinterpret_cast<void*>(static_cast<std::uintptr_t>(n));
    if (rte_hash_add_key_with_hash_data(table_, &key, signature(hash_, key), number) != 0) {
      std::fprintf(stderr, "rte_hash is full at %u entries\n", n);
      std::exit(1);
    }
  }
}

RteHash::~RteHash() {
  rte_hash_free(table_);
}

bool RteHash::look_up(const FlatKey* keys, flow::Slot* into) const {
  std::array<const void*, kLookBurst> pointers;
  std::array<hash_sig_t, kLookBurst> signatures;
  std::array<void*, kLookBurst> found;
  for (std::size_t i = 0; i < kLookBurst; ++i) {
    pointers[i] = keys + i;
    signatures[i] = signature(hash_, keys[i]);
  }
  std::uint64_t hits = 0;
  rte_hash_lookup_with_hash_bulk_data(table_, pointers.data(), signatures.data(), kLookBurst, &hits, found.data());
  for (std::size_t i = 0; i < kLookBurst; ++i) into[i] = static_cast<flow::Slot>(reinterpret_cast<std::uintptr_t>(found[i]));
  return hits == ~std::uint64_t{0};
}

}  // namespace penstock::perf
