// Large tables on large pages: with small ones, a look-up at random in hundreds of megabytes misses the TLB besides the
// cache, which costs as much again.
//
// A wish only. Called once per table when it is made (a system call; this file and resident.h have the only ones in
// core); where the system grants no transparent huge pages nothing changes. Pages are still mapped, and zeroed, when
// they are first used, or ahead of that by map_ahead().
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace penstock {

enum class Pages : std::uint8_t {
  huge,
  small  // tables that a few entries of are used now and then: 2 MiB to be zeroed for each would hold up a handshake
};

inline void ask_for_pages(void* memory, std::size_t size, Pages pages) {
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + size) / kHugePage * kHugePage;
  if (memory == nullptr || begin >= end) return;
  static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin,
                              pages == Pages::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
}

inline void ask_for_huge_pages(void* memory, std::size_t size) {
  ask_for_pages(memory, size, Pages::huge);
}

// What is mapped of a table before its first use, of those that are used from the front. On a virtual machine a large
// page that the host has to find as well takes ten milliseconds, and the first client's handshake waits for every one.
inline constexpr std::size_t kMappedFront = std::size_t{2} << 20;

// Maps, and zeroes, the pages of memory that will be written soon, so that who writes them need not wait for the
// system. Contents stay. A wish only (Linux 5.14). Any thread, also while others use the memory.
inline void map_ahead(void* memory, std::size_t size) {
#ifdef MADV_POPULATE_WRITE
  constexpr std::uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + size + kPage - 1) / kPage * kPage;
  if (memory != nullptr && size != 0)
    static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE));
#endif
}

}  // namespace penstock
