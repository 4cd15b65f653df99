// ChaCha20 (RFC 8439 §2.3) of sixteen blocks at once: state word w of all sixteen in one AVX-512 register.
// Part of chacha20_poly1305_x16.cc, which alone includes it: everything here has internal linkage and is compiled for
// AVX-512.
#pragma once

#include <immintrin.h>

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {
namespace {

using V = __m512i;

template <int Bits>
PENSTOCK_INLINE V rotate_xor(V a, V b) {
  return _mm512_rol_epi32(_mm512_xor_si512(a, b), Bits);
}

PENSTOCK_INLINE void quarter_round(V& a, V& b, V& c, V& d) {
  a = _mm512_add_epi32(a, b);
  d = rotate_xor<16>(d, a);
  c = _mm512_add_epi32(c, d);
  b = rotate_xor<12>(b, c);
  a = _mm512_add_epi32(a, b);
  d = rotate_xor<8>(d, a);
  c = _mm512_add_epi32(c, d);
  b = rotate_xor<7>(b, c);
}

PENSTOCK_INLINE void column_round(V (&x)[16]) {
  quarter_round(x[0], x[4], x[8], x[12]);
  quarter_round(x[1], x[5], x[9], x[13]);
  quarter_round(x[2], x[6], x[10], x[14]);
  quarter_round(x[3], x[7], x[11], x[15]);
}
PENSTOCK_INLINE void diagonal_round(V (&x)[16]) {
  quarter_round(x[0], x[5], x[10], x[15]);
  quarter_round(x[1], x[6], x[11], x[12]);
  quarter_round(x[2], x[7], x[8], x[13]);
  quarter_round(x[3], x[4], x[9], x[14]);
}

// In each 128-bit quarter: 4x4 transpose of the 32-bit words of four registers.
PENSTOCK_INLINE void transpose_4x4(const V* x, V* t) {
  const V a = _mm512_unpacklo_epi32(x[0], x[1]);
  const V b = _mm512_unpackhi_epi32(x[0], x[1]);
  const V c = _mm512_unpacklo_epi32(x[2], x[3]);
  const V d = _mm512_unpackhi_epi32(x[2], x[3]);
  t[0] = _mm512_unpacklo_epi64(a, c);
  t[1] = _mm512_unpackhi_epi64(a, c);
  t[2] = _mm512_unpacklo_epi64(b, d);
  t[3] = _mm512_unpackhi_epi64(b, d);
}

// 16x16 transpose of 32-bit words: from word-per-register to block-per-register.
PENSTOCK_INLINE void transpose_16x16(V (&x)[16]) {
  V t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) transpose_4x4(x + i, t + i);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const V a = _mm512_shuffle_i32x4(t[k], t[k + 4], 0x88);
    const V b = _mm512_shuffle_i32x4(t[k], t[k + 4], 0xdd);
    const V c = _mm512_shuffle_i32x4(t[k + 8], t[k + 12], 0x88);
    const V d = _mm512_shuffle_i32x4(t[k + 8], t[k + 12], 0xdd);
    x[k] = _mm512_shuffle_i32x4(a, c, 0x88);
    x[k + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[k + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    x[k + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// What differs between lanes: the key (words 4 to 11), the nonce's counter (words 14 and 15) and the block's (word 12).
struct States {
  V key[8];
  V nonce[2];
  V block;
};

// RFC 8439 §2.3: the constants; word 13 is the zero half of the nonce.
PENSTOCK_INLINE V initial(const States& s, int word) {
  constexpr std::uint32_t kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  if (word < 4) return _mm512_set1_epi32(static_cast<int>(kSigma[word]));
  if (word < 12) return s.key[word - 4];
  if (word == 12) return s.block;
  if (word == 13) return _mm512_setzero_si512();
  return s.nonce[word - 14];
}

// All but the last addition. `between(i)` is called after each of the twenty rounds: work for what they leave idle.
template <typename Between>
PENSTOCK_INLINE void rounds(const States& s, V (&x)[16], Between between) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = initial(s, i);
#pragma GCC unroll 1
  for (unsigned i = 0; i < 20; i += 2) {
    column_round(x);
    between(i);
    diagonal_round(x);
    between(i + 1);
  }
}

}  // namespace
}  // namespace penstock::wireguard
