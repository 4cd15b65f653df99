// Objects of one type side by side, on large pages: what every packet of another peer looks up at random must not lie
// scattered over thousands of small pages, each a miss of the TLB besides that of the cache.
//
// For types that give `operator new` and `operator delete` (see penstock::Slabbed). Memory grows by the chunk and is
// kept for use again until the process ends. Any thread; a mutex, so not for what a worker makes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <mutex>

#include "dataplane/core/base/huge_pages.h"

namespace penstock {

template <std::size_t Size>
class Slab {
 public:
  [[nodiscard]] void* take() {
    const std::lock_guard lock(mutex_);
    if (free_ == nullptr) grow();
    Free* place = free_;
    free_ = place->next;
    return place;
  }
  void give_back(void* place) {
    const std::lock_guard lock(mutex_);
    free_ = new (place) Free{free_};
  }

  // One for all of a size; never destroyed, since objects may outlive every order of destruction.
  static Slab& instance() {
    static Slab& slab = *new Slab;
    return slab;
  }

 private:
  struct Free {
    Free* next;
  };
  static_assert(Size % 64 == 0 && Size >= sizeof(Free));
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  static constexpr std::size_t kFirstChunk = std::size_t{64} << 10;  // who has few peers has few sessions

  void grow() {
    const bool first = !grown_;
    const std::size_t size = first ? kFirstChunk : kHugePage;
    auto* chunk = static_cast<std::byte*>(std::aligned_alloc(first ? std::size_t{64} : kHugePage, size));
    if (chunk == nullptr) std::abort();  // as operator new does without exceptions
    grown_ = true;
    ask_for_huge_pages(chunk, size);
    for (std::size_t at = size / Size; at > 0; --at) free_ = new (chunk + (at - 1) * Size) Free{free_};
  }

  std::mutex mutex_;
  Free* free_ = nullptr;
  bool grown_ = false;
};

// Base of a type whose objects lie in a slab. Under the address sanitizer they come from the heap, which tells when one
// is used too late.
template <typename T>
struct Slabbed {
#if !defined(__SANITIZE_ADDRESS__)
  static void* operator new(std::size_t) { return Slab<sizeof(T)>::instance().take(); }
  static void* operator new(std::size_t, std::align_val_t) { return Slab<sizeof(T)>::instance().take(); }
  static void* operator new(std::size_t, void* place) { return place; }
  static void operator delete(void* place) { give_back(place); }
  static void operator delete(void* place, std::align_val_t) { give_back(place); }

 private:
  static void give_back(void* place) {
    if (place != nullptr) Slab<sizeof(T)>::instance().give_back(place);
  }
#endif
};

}  // namespace penstock
