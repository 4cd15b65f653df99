// Fetches a cache line that will be needed soon.
//
// Not __builtin_prefetch: to GCC 12 a function that does nothing but prefetch has no effect, and what calls it through
// one more function drops the call without a word. An instruction written out is kept.
#pragma once

namespace penstock {

inline void prefetch_read(const void* at) {
  asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(at)));
}
// Will be written: the line comes as our own.
inline void prefetch_write(const void* at) {
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(at)));
}

}  // namespace penstock
