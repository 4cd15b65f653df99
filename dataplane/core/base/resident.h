// Keeps a process in memory: its code before anything else.
//
// A system that is short of memory, or that takes back what was not used for a while, takes pages of code first: they can
// be read from their file again. The next handshake then waits for the disk, some milliseconds for each page, and with
// it somebody's first packet. To be called once, after signals are blocked, by processes that first packets wait for.
//
// A wish only: where the process may not lock memory (no CAP_IPC_LOCK, and a limit) its code is read ahead all the same.
#pragma once

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace penstock {
namespace resident_detail {

using Range = std::pair<std::uintptr_t, std::uintptr_t>;

// What is mapped from files and not written to: code and constants of the program and its libraries.
inline std::vector<Range> read_only_segments() {
  std::vector<Range> out;
  ::dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void* to) {
        constexpr std::uintptr_t kPage = 4096;
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const auto& segment = object->dlpi_phdr[i];
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
          const std::uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
          static_cast<std::vector<Range>*>(to)->emplace_back(begin / kPage * kPage, begin + segment.p_memsz);
        }
        return 0;
      },
      &out);
  return out;
}

// The heap grows by a page at a time, and on a virtual machine each may be one that the host has to find as well: half a
// millisecond for what a first packet needs. A megabyte is there before.
inline void grow_heap() {
  constexpr std::size_t kPart = std::size_t{64} << 10, kParts = 16, kPage = 4096;
  ::mallopt(M_TRIM_THRESHOLD, static_cast<int>(8 * kPart * kParts));  // and is kept
  std::vector<std::unique_ptr<volatile char[]>> parts;
  for (std::size_t n = 0; n < kParts; ++n) {
    parts.emplace_back(new volatile char[kPart]);
    for (std::size_t at = 0; at < kPart; at += kPage) parts.back()[at] = 0;
  }
}

inline bool may_lock() {
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) == 0) return true;
  return ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

}  // namespace resident_detail

inline constexpr const char* kNotLocked =
    "memory cannot be locked (CAP_IPC_LOCK, RLIMIT_MEMLOCK): after a quiet time a first packet may wait for the disk";

// Memory that is never touched takes none, as before, but for a megabyte of heap. Returns whether pages are locked; if not, kNotLocked is to be
// said. The code is read by a thread of its own, so that a start does not wait for the disk.
[[nodiscard]] inline bool stay_in_memory() {
  resident_detail::grow_heap();
  const bool locked =
      resident_detail::may_lock() && ::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
  std::thread([segments = resident_detail::read_only_segments()] {
    for (const auto& [begin, end] : segments)
      static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ));
  }).detach();
  return locked;
}

}  // namespace penstock
