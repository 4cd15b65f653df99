// How many pages this thread has had to be given so far.
#pragma once

#include <sys/resource.h>

namespace penstock {

inline long page_faults() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt;
}

}  // namespace penstock
