// A fixed array of zero-initialised, cache-line aligned elements whose pages cost nothing until they are touched:
// tables sized for a million peers must not be a gigabyte in a process that has three. Elements are types for which
// all-zero bytes are the initial state (integers, atomics of them, pointers) and which need no destructor.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <type_traits>

#include "dataplane/core/base/huge_pages.h"

namespace penstock::wireguard {

template <typename T>
class ZeroedArray {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  explicit ZeroedArray(std::size_t size, Pages pages = Pages::huge)
      : size_(size), memory_(std::calloc(size * sizeof(T) + kAlign, 1)) {
    if (memory_ == nullptr) std::abort();  // at start-up only: there is no process without its tables
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
    ask_for_pages(memory_.get(), size * sizeof(T), pages);
    elements_ = reinterpret_cast<T*>((address + kAlign - 1) & ~(kAlign - 1));
  }

  // Any thread, at any time.
  void map_front() const { map_ahead(elements_, std::min(size_ * sizeof(T), kMappedFront)); }

  [[nodiscard]] std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return elements_[i]; }
  const T& operator[](std::size_t i) const { return elements_[i]; }

 private:
  static constexpr std::uintptr_t kAlign = 64;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::size_t size_;
  std::unique_ptr<void, Free> memory_;
  T* elements_ = nullptr;
};

}  // namespace penstock::wireguard
