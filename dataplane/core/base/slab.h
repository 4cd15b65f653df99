// Objects of one type side by side, on large pages: what every packet of another peer looks up at random must not lie
// scattered over thousands of small pages, each a miss of the TLB besides that of the cache.
//
// For types that give `operator new` and `operator delete` (see penstock::Slabbed). Memory grows by the chunk and is
// kept for use again until the process ends. Any thread; a mutex, so not for what a worker makes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "dataplane/core/base/huge_pages.h"

namespace penstock {

template <std::size_t Size>
class Slab {
 public:
  [[nodiscard]] void* take() {
    const std::lock_guard lock(mutex_);
    if (free_ == nullptr) add(allocate(std::exchange(grown_, true) ? kHugePage : kFirstChunk));
    Free* place = free_;
    free_ = place->next;
    --available_;
    return place;
  }
  void give_back(void* place) {
    const std::lock_guard lock(mutex_);
    free_ = new (place) Free{free_};
    ++available_;
  }
  // At least so many places free, mapped, before somebody waits for them (huge_pages.h).
  void map_ahead(std::size_t places) {
    {
      const std::lock_guard lock(mutex_);
      if (available_ >= places) return;
      grown_ = true;
    }
    const Chunk chunk = allocate(kHugePage);
    penstock::map_ahead(chunk.memory, chunk.size);
    const std::lock_guard lock(mutex_);
    add(chunk);
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

  struct Chunk {
    std::byte* memory;
    std::size_t size;
  };
  static Chunk allocate(std::size_t size) {
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(size < kHugePage ? std::size_t{64} : kHugePage, size));
    if (memory == nullptr) std::abort();  // as operator new does without exceptions
    ask_for_huge_pages(memory, size);
    return {memory, size};
  }
  void add(Chunk chunk) {
    for (std::size_t at = chunk.size / Size; at > 0; --at) free_ = new (chunk.memory + (at - 1) * Size) Free{free_};
    available_ += chunk.size / Size;
  }

  std::mutex mutex_;
  Free* free_ = nullptr;
  std::size_t available_ = 0;  // length of `free_`
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
  static void map_ahead(std::size_t objects) { Slab<sizeof(T)>::instance().map_ahead(objects); }

 private:
  static void give_back(void* place) {
    if (place != nullptr) Slab<sizeof(T)>::instance().give_back(place);
  }
#else
  static void map_ahead(std::size_t) {}
#endif
};

}  // namespace penstock
