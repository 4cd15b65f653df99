// Benchmarks register themselves here; main.cc runs them interleaved and makes rows of what they say.
#pragma once

#include <string>

namespace penstock::perf {

// AEAD of every backend: names "seal/64/burst32/lanes".
void register_aead(bool quick);
// The other hot functions: "replay/accept32" and the like.
void register_functions();
// Translation of existing flows: "translate/nat64" and so on, each in three parts (see translate.cc).
void register_translation();

inline constexpr const char* kWholeCall = "/call";  // laying ready included
inline constexpr const char* kLayReady = "/lay-ready";
inline constexpr const char* kLookUp = "/look-up";

}  // namespace penstock::perf
