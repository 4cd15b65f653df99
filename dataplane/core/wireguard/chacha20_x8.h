// ChaCha20 (RFC 8439 §2.3) of eight blocks at once: state word w of all eight in one AVX2 register.
// Part of chacha20_poly1305_x8.cc, which alone includes it: everything here has internal linkage and is compiled for
// AVX2.
#pragma once

#include <immintrin.h>

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {
namespace {

using V = __m256i;

constexpr std::size_t kWidth = 8;  // blocks

PENSTOCK_INLINE V rotate16(V x) {
  return _mm256_shuffle_epi8(x, _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2, 13, 12, 15, 14, 9,
                                                8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
}
PENSTOCK_INLINE V rotate8(V x) {
  return _mm256_shuffle_epi8(x, _mm256_set_epi8(14, 13, 12, 15, 10, 9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3, 14, 13, 12, 15, 10,
                                                9, 8, 11, 6, 5, 4, 7, 2, 1, 0, 3));
}
template <int Bits>
PENSTOCK_INLINE V rotate(V x) {
  return _mm256_or_si256(_mm256_slli_epi32(x, Bits), _mm256_srli_epi32(x, 32 - Bits));
}

// Four quarter rounds side by side; a, b, c, d say which words of each row.
template <int B, int C, int D>
PENSTOCK_INLINE void round(V* x) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    V& a = x[i];
    V& b = x[4 + (i + B) % 4];
    V& c = x[8 + (i + C) % 4];
    V& d = x[12 + (i + D) % 4];
    a = _mm256_add_epi32(a, b);
    d = rotate16(_mm256_xor_si256(d, a));
    c = _mm256_add_epi32(c, d);
    b = rotate<12>(_mm256_xor_si256(b, c));
    a = _mm256_add_epi32(a, b);
    d = rotate8(_mm256_xor_si256(d, a));
    c = _mm256_add_epi32(c, d);
    b = rotate<7>(_mm256_xor_si256(b, c));
  }
}

// 8x8 transpose of 32-bit words.
PENSTOCK_INLINE void transpose(V* x) {
  V t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const V a = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    const V b = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    const V c = _mm256_unpacklo_epi32(x[i + 2], x[i + 3]);
    const V d = _mm256_unpackhi_epi32(x[i + 2], x[i + 3]);
    t[i] = _mm256_unpacklo_epi64(a, c);
    t[i + 1] = _mm256_unpackhi_epi64(a, c);
    t[i + 2] = _mm256_unpacklo_epi64(b, d);
    t[i + 3] = _mm256_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x20);
    x[i + 4] = _mm256_permute2x128_si256(t[i], t[i + 4], 0x31);
  }
}

// Sixteen words of the eight initial states; word 12, the block number, is given per stripe.
struct States {
  V word[16];
};

// `lane(i)`: whose block stands in place i.
template <typename LaneOf>
PENSTOCK_INLINE void load_keys(States& s, const LaneOf& lane_of) {
  static constexpr std::uint32_t kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  alignas(32) std::uint32_t low[kWidth], high[kWidth];
  V keys[8];
  for (std::size_t i = 0; i < kWidth; ++i) {
    const Lane& lane = lane_of(i);
    keys[i] = _mm256_loadu_si256(reinterpret_cast<const V*>(lane.key));
    low[i] = static_cast<std::uint32_t>(lane.counter);
    high[i] = static_cast<std::uint32_t>(lane.counter >> 32);
  }
  transpose(keys);
  for (int i = 0; i < 4; ++i) s.word[i] = _mm256_set1_epi32(static_cast<int>(kSigma[i]));
  for (int i = 0; i < 8; ++i) s.word[4 + i] = keys[i];
  s.word[13] = _mm256_setzero_si256();
  s.word[14] = _mm256_load_si256(reinterpret_cast<const V*>(low));
  s.word[15] = _mm256_load_si256(reinterpret_cast<const V*>(high));
}

// Eight blocks of key stream; `between(i)` is called after every half of a double round.
template <typename Between>
__attribute__((noinline)) void key_streams(const States& s, const Between& between, std::uint8_t (*streams)[64]) {
  V x[16];
  for (int i = 0; i < 16; ++i) x[i] = s.word[i];
  for (int i = 0; i < 20; i += 2) {
    round<0, 0, 0>(x);
    between(i);
    round<1, 2, 3>(x);
    between(i + 1);
  }
  for (int i = 0; i < 16; ++i) x[i] = _mm256_add_epi32(x[i], s.word[i]);
  transpose(x);
  transpose(x + 8);
  for (int i = 0; i < 8; ++i) {
    _mm256_store_si256(reinterpret_cast<V*>(streams[i]), x[i]);
    _mm256_store_si256(reinterpret_cast<V*>(streams[i] + 32), x[8 + i]);
  }
}

}  // namespace
}  // namespace penstock::wireguard
