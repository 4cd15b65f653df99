// Bytes of this process in memory: now ("VmRSS:"), and at most so far ("VmHWM:"). 0: the kernel does not say.
#pragma once

#include <fstream>
#include <string>

namespace penstock::perf {

inline double resident(const char* field = "VmRSS:") {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == field) {
      double kib = 0;
      status >> kib;
      return kib * 1024;
    }
  return 0;
}

}  // namespace penstock::perf
