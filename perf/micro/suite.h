// Benchmarks register themselves here; main.cc runs them interleaved and makes rows of what they say.
#pragma once

#include <string>

namespace penstock::perf {

// AEAD of every backend: names "seal/64/burst32/lanes".
void register_aead(bool quick);
// The other hot functions: "replay/accept32" and the like.
void register_functions();

}  // namespace penstock::perf
