// A fuzz target ends, and the fuzzer keeps the input, when what must hold does not.
#pragma once

#include <cstdlib>

inline void require(bool condition) {
  if (!condition) std::abort();
}
