// Large tables on large pages: with small ones, a look-up at random in hundreds of megabytes misses the TLB besides the
// cache, which costs as much again.
//
// A wish only. Called once per table when it is made (a system call, the only kind in core); where the system grants no
// transparent huge pages nothing changes. Pages are still mapped, and zeroed, when they are first used.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace penstock {

inline void ask_for_huge_pages(void* memory, std::size_t size) {
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + size) / kHugePage * kHugePage;
  if (memory == nullptr || begin >= end) return;
  static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
}

}  // namespace penstock
