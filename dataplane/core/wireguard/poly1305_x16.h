// Poly1305 (RFC 8439 §2.5) of eight packets per register: limbs of 44, 44 and 42 bits, multiplied with IFMA.
// Part of chacha20_poly1305_x16.cc, which alone includes it: everything here has internal linkage and is compiled for
// AVX-512.
#pragma once

#include <immintrin.h>

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {
namespace {

using V = __m512i;

constexpr std::uint64_t kMask44 = (std::uint64_t{1} << 44) - 1;
constexpr std::uint64_t kMask42 = (std::uint64_t{1} << 42) - 1;

PENSTOCK_INLINE V all(std::uint64_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}

struct Poly8 {
  V r0, r1, r2;  // r, clamped
  V s1, s2;      // 20 * r1, 20 * r2: limbs that wrap past 2^132 come back times 4 * 5
  V h0, h1, h2;  // accumulator
  V k0, k1;      // the final addend
};

// 8x8 transpose of 64-bit words: x[i] is 64 bytes of packet i; afterwards x[2q], x[2q+1] are the low and high halves of
// every packet's q-th 16-byte block.
PENSTOCK_INLINE void transpose_8x8(V* x) {
  V t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    const V a = _mm512_shuffle_i64x2(t[k], t[k + 2], 0x88);
    const V b = _mm512_shuffle_i64x2(t[k], t[k + 2], 0xdd);
    const V c = _mm512_shuffle_i64x2(t[k + 4], t[k + 6], 0x88);
    const V d = _mm512_shuffle_i64x2(t[k + 4], t[k + 6], 0xdd);
    x[k] = _mm512_shuffle_i64x2(a, c, 0x88);
    x[k + 4] = _mm512_shuffle_i64x2(a, c, 0xdd);
    x[k + 2] = _mm512_shuffle_i64x2(b, d, 0x88);
    x[k + 6] = _mm512_shuffle_i64x2(b, d, 0xdd);
  }
}

// Puts the packets in `lanes` to their start, with the low and high halves of their r, clamped.
PENSTOCK_INLINE void poly8_start(Poly8& p, __mmask8 lanes, V low, V high) {
  const V zero = _mm512_setzero_si512();
  p.h0 = _mm512_mask_mov_epi64(p.h0, lanes, zero);
  p.h1 = _mm512_mask_mov_epi64(p.h1, lanes, zero);
  p.h2 = _mm512_mask_mov_epi64(p.h2, lanes, zero);
  p.r0 = _mm512_mask_and_epi64(p.r0, lanes, low, all(kMask44));
  p.r1 = _mm512_mask_and_epi64(p.r1, lanes, _mm512_shrdi_epi64(low, high, 44), all(kMask44));
  p.r2 = _mm512_mask_srli_epi64(p.r2, lanes, high, 24);
  p.s1 = _mm512_add_epi64(_mm512_slli_epi64(p.r1, 4), _mm512_slli_epi64(p.r1, 2));
  p.s2 = _mm512_add_epi64(_mm512_slli_epi64(p.r2, 4), _mm512_slli_epi64(p.r2, 2));
}

// h = (h + block + 2^128) * r mod 2^130 - 5, partially reduced, for the packets in `active`.
PENSTOCK_INLINE void poly8_block(Poly8& p, V low, V high, __mmask8 active) {
  const V m44 = all(kMask44);
  const V zero = _mm512_setzero_si512();
  const V h0 = _mm512_add_epi64(p.h0, _mm512_and_si512(low, m44));
  const V h1 = _mm512_add_epi64(p.h1, _mm512_and_si512(_mm512_shrdi_epi64(low, high, 44), m44));
  const V h2 = _mm512_add_epi64(p.h2, _mm512_or_si512(_mm512_srli_epi64(high, 24), all(std::uint64_t{1} << 40)));

  // Low and high 52-bit halves of the products, summed per limb.
  V lo0 = _mm512_madd52lo_epu64(zero, h2, p.s1), hi0 = _mm512_madd52hi_epu64(zero, h2, p.s1);
  V lo1 = _mm512_madd52lo_epu64(zero, h2, p.s2), hi1 = _mm512_madd52hi_epu64(zero, h2, p.s2);
  V lo2 = _mm512_madd52lo_epu64(zero, h2, p.r0), hi2 = _mm512_madd52hi_epu64(zero, h2, p.r0);
  lo0 = _mm512_madd52lo_epu64(lo0, h1, p.s2), hi0 = _mm512_madd52hi_epu64(hi0, h1, p.s2);
  lo1 = _mm512_madd52lo_epu64(lo1, h1, p.r0), hi1 = _mm512_madd52hi_epu64(hi1, h1, p.r0);
  lo2 = _mm512_madd52lo_epu64(lo2, h1, p.r1), hi2 = _mm512_madd52hi_epu64(hi2, h1, p.r1);
  lo0 = _mm512_madd52lo_epu64(lo0, h0, p.r0), hi0 = _mm512_madd52hi_epu64(hi0, h0, p.r0);
  lo1 = _mm512_madd52lo_epu64(lo1, h0, p.r1), hi1 = _mm512_madd52hi_epu64(hi1, h0, p.r1);
  lo2 = _mm512_madd52lo_epu64(lo2, h0, p.r2), hi2 = _mm512_madd52hi_epu64(hi2, h0, p.r2);

  // Carry. A high half weighs 2^52, that is 2^8 in the next 44-bit limb (2^10 past the 42-bit one).
  V carry = _mm512_add_epi64(_mm512_srli_epi64(lo0, 44), _mm512_slli_epi64(hi0, 8));
  V n0 = _mm512_and_si512(lo0, m44);
  lo1 = _mm512_add_epi64(lo1, carry);
  carry = _mm512_add_epi64(_mm512_srli_epi64(lo1, 44), _mm512_slli_epi64(hi1, 8));
  V n1 = _mm512_and_si512(lo1, m44);
  lo2 = _mm512_add_epi64(lo2, carry);
  carry = _mm512_add_epi64(_mm512_srli_epi64(lo2, 42), _mm512_slli_epi64(hi2, 10));
  const V n2 = _mm512_and_si512(lo2, all(kMask42));
  n0 = _mm512_add_epi64(n0, _mm512_add_epi64(carry, _mm512_slli_epi64(carry, 2)));
  carry = _mm512_srli_epi64(n0, 44);
  n0 = _mm512_and_si512(n0, m44);
  n1 = _mm512_add_epi64(n1, carry);

  p.h0 = _mm512_mask_mov_epi64(p.h0, active, n0);
  p.h1 = _mm512_mask_mov_epi64(p.h1, active, n1);
  p.h2 = _mm512_mask_mov_epi64(p.h2, active, n2);
}

// Full reduction and the final addition modulo 2^128: low and high halves of eight tags.
PENSTOCK_INLINE void poly8_finish(const Poly8& p, V& low_half, V& high_half) {
  const V m44 = all(kMask44), m42 = all(kMask42);
  V h0 = p.h0, h1 = p.h1, h2 = p.h2, carry;
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass) {
    carry = _mm512_srli_epi64(h1, 44);
    h1 = _mm512_and_si512(h1, m44);
    h2 = _mm512_add_epi64(h2, carry);
    carry = _mm512_srli_epi64(h2, 42);
    h2 = _mm512_and_si512(h2, m42);
    h0 = _mm512_add_epi64(h0, _mm512_add_epi64(carry, _mm512_slli_epi64(carry, 2)));
    carry = _mm512_srli_epi64(h0, 44);
    h0 = _mm512_and_si512(h0, m44);
    h1 = _mm512_add_epi64(h1, carry);
  }
  // g = h + 5 - 2^130; take g where it is not negative.
  V g0 = _mm512_add_epi64(h0, all(5));
  carry = _mm512_srli_epi64(g0, 44);
  g0 = _mm512_and_si512(g0, m44);
  V g1 = _mm512_add_epi64(h1, carry);
  carry = _mm512_srli_epi64(g1, 44);
  g1 = _mm512_and_si512(g1, m44);
  const V g2 = _mm512_sub_epi64(_mm512_add_epi64(h2, carry), all(std::uint64_t{1} << 42));
  const __mmask8 keep = _mm512_movepi64_mask(g2);  // sign bit set: h < 2^130 - 5
  h0 = _mm512_mask_mov_epi64(g0, keep, h0);
  h1 = _mm512_mask_mov_epi64(g1, keep, h1);
  h2 = _mm512_mask_mov_epi64(g2, keep, h2);

  const V low = _mm512_or_si512(h0, _mm512_slli_epi64(h1, 44));
  const V high = _mm512_or_si512(_mm512_srli_epi64(h1, 20), _mm512_slli_epi64(h2, 24));
  low_half = _mm512_add_epi64(low, p.k0);
  const __mmask8 overflow = _mm512_cmplt_epu64_mask(low_half, low);
  high_half = _mm512_add_epi64(high, p.k1);
  high_half = _mm512_mask_add_epi64(high_half, overflow, high_half, all(1));
}

}  // namespace
}  // namespace penstock::wireguard
