// A fixed array of zero bytes, aligned, whose pages are not touched before they are used: a table for ten million flows
// must not cost its memory at start.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "dataplane/core/base/huge_pages.h"

namespace penstock::flow {

template <typename T>
class ZeroedArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  explicit ZeroedArray(std::size_t size)
      : memory_{std::calloc(size * sizeof(T) + alignof(T), 1)}, size_{memory_ == nullptr ? 0 : size} {
    const auto start = reinterpret_cast<std::uintptr_t>(memory_);
    ask_for_huge_pages(memory_, size * sizeof(T));
    items_ = reinterpret_cast<T*>((start + alignof(T) - 1) / alignof(T) * alignof(T));
  }
  ~ZeroedArray() { std::free(memory_); }
  ZeroedArray(const ZeroedArray&) = delete;
  ZeroedArray& operator=(const ZeroedArray&) = delete;

  // Maps elements before they are used, up to the array's end. Any thread, at any time.
  void map_ahead(std::size_t first, std::size_t count) const {
    if (first < size_) penstock::map_ahead(items_ + first, std::min(count, size_ - first) * sizeof(T));
  }

  // 0 when the system had no memory.
  [[nodiscard]] std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return items_[i]; }
  const T& operator[](std::size_t i) const { return items_[i]; }

 private:
  void* memory_;
  T* items_ = nullptr;
  std::size_t size_;
};

}  // namespace penstock::flow
