#include "dataplane/core/wireguard/chacha20_poly1305_x16.h"

#if defined(__AVX512F__) && defined(__AVX512IFMA__) && defined(__AVX512VBMI2__)

#include <immintrin.h>

// This file is compiled for AVX-512 and may run nowhere else, so it includes nothing with inline functions that the
// linker could merge into the rest of the program.

namespace penstock::wireguard {
namespace {

#define PENSTOCK_INLINE inline __attribute__((always_inline))

using V = __m512i;

// ---- ChaCha20, RFC 8439 §2.3: one state word of sixteen packets per register ----

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

// 16x16 transpose of 32-bit words: from word-per-register to packet-per-register.
PENSTOCK_INLINE void transpose_16x16(V (&x)[16]) {
  V t[16];
  for (int i = 0; i < 16; i += 4) {
    const V a = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    const V b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    const V c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
    const V d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
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

// Sixteen initial states; the block counter (word 12) is given per block.
struct States {
  V word[16];
};

PENSTOCK_INLINE void load_states(States& s, const Lane* lanes, std::size_t count) {
  static constexpr std::uint32_t kSigma[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  V keys[16];
  alignas(64) std::uint64_t counters[16];
  for (std::size_t i = 0; i < kLanes; ++i) {
    const Lane& lane = lanes[i < count ? i : 0];  // idle lanes repeat the first: same work, nothing stored
    keys[i] = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane.key)));
    counters[i] = lane.counter;
  }
  transpose_16x16(keys);
  for (int i = 0; i < 4; ++i) s.word[i] = _mm512_set1_epi32(static_cast<int>(kSigma[i]));
  for (int i = 0; i < 8; ++i) s.word[4 + i] = keys[i];
  s.word[12] = _mm512_setzero_si512();
  s.word[13] = _mm512_setzero_si512();
  const V low = _mm512_load_si512(counters);
  const V high = _mm512_load_si512(counters + 8);
  s.word[14] =
      _mm512_permutex2var_epi32(low, _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0), high);
  s.word[15] =
      _mm512_permutex2var_epi32(low, _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1), high);
}

// Key stream of block `block`: out[i] holds the 64 bytes of packet i.
PENSTOCK_INLINE void key_stream(const States& s, std::uint32_t block, V (&out)[16]) {
  for (int i = 0; i < 16; ++i) out[i] = s.word[i];
  const V counter = _mm512_set1_epi32(static_cast<int>(block));
  out[12] = counter;
  for (int round = 0; round < 10; ++round) {
    quarter_round(out[0], out[4], out[8], out[12]);
    quarter_round(out[1], out[5], out[9], out[13]);
    quarter_round(out[2], out[6], out[10], out[14]);
    quarter_round(out[3], out[7], out[11], out[15]);
    quarter_round(out[0], out[5], out[10], out[15]);
    quarter_round(out[1], out[6], out[11], out[12]);
    quarter_round(out[2], out[7], out[8], out[13]);
    quarter_round(out[3], out[4], out[9], out[14]);
  }
  for (int i = 0; i < 16; ++i) out[i] = _mm512_add_epi32(out[i], i == 12 ? counter : s.word[i]);
  transpose_16x16(out);
}

// ---- Poly1305, RFC 8439 §2.5: eight packets per register, limbs of 44, 44 and 42 bits ----

constexpr std::uint64_t kMask44 = (std::uint64_t{1} << 44) - 1;
constexpr std::uint64_t kMask42 = (std::uint64_t{1} << 42) - 1;

PENSTOCK_INLINE V all(std::uint64_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}

struct Poly {
  V r0, r1, r2;  // r, clamped
  V s1, s2;      // 20 * r1, 20 * r2: limbs that wrap past 2^132 come back times 4 * 5
  V h0, h1, h2;  // accumulator
  V k0, k1;      // the final addend
};

// 8x8 transpose of 64-bit words: x[i] is 64 bytes of packet i; afterwards x[2q], x[2q+1] are the low and high halves of
// every packet's q-th 16-byte block.
PENSTOCK_INLINE void transpose_8x8(V* x) {
  V t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
  }
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

// One-time keys from block 0 of eight packets' key streams (RFC 8439 §2.6).
PENSTOCK_INLINE void poly_init(Poly& p, const V* block0) {
  V y[8];
  for (int i = 0; i < 8; ++i) y[i] = block0[i];
  transpose_8x8(y);
  const V t0 = _mm512_and_si512(y[0], all(0x0ffffffc0fffffffULL));
  const V t1 = _mm512_and_si512(y[1], all(0x0ffffffc0ffffffcULL));
  p.r0 = _mm512_and_si512(t0, all(kMask44));
  p.r1 = _mm512_and_si512(_mm512_shrdi_epi64(t0, t1, 44), all(kMask44));
  p.r2 = _mm512_srli_epi64(t1, 24);
  p.s1 = _mm512_add_epi64(_mm512_slli_epi64(p.r1, 4), _mm512_slli_epi64(p.r1, 2));
  p.s2 = _mm512_add_epi64(_mm512_slli_epi64(p.r2, 4), _mm512_slli_epi64(p.r2, 2));
  p.h0 = p.h1 = p.h2 = _mm512_setzero_si512();
  p.k0 = y[2];
  p.k1 = y[3];
}

// h = (h + block + 2^128) * r mod 2^130 - 5, partially reduced, for the packets in `active`.
template <bool Masked>
PENSTOCK_INLINE void poly_block(Poly& p, V low, V high, __mmask8 active) {
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

  if constexpr (Masked) {
    p.h0 = _mm512_mask_mov_epi64(p.h0, active, n0);
    p.h1 = _mm512_mask_mov_epi64(p.h1, active, n1);
    p.h2 = _mm512_mask_mov_epi64(p.h2, active, n2);
  } else {
    p.h0 = n0;
    p.h1 = n1;
    p.h2 = n2;
  }
}

// Full reduction and the final addition modulo 2^128: eight tags.
PENSTOCK_INLINE void poly_finish(const Poly& p, std::uint8_t (*tags)[16]) {
  const V m44 = all(kMask44), m42 = all(kMask42);
  V h0 = p.h0, h1 = p.h1, h2 = p.h2, carry;
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
  const V sum_low = _mm512_add_epi64(low, p.k0);
  const __mmask8 overflow = _mm512_cmplt_epu64_mask(sum_low, low);
  V sum_high = _mm512_add_epi64(high, p.k1);
  sum_high = _mm512_mask_add_epi64(sum_high, overflow, sum_high, all(1));

  alignas(64) std::uint64_t out_low[8], out_high[8];
  _mm512_store_si512(out_low, sum_low);
  _mm512_store_si512(out_high, sum_high);
  for (int i = 0; i < 8; ++i) {
    __builtin_memcpy(tags[i], &out_low[i], 8);
    __builtin_memcpy(tags[i] + 8, &out_high[i], 8);
  }
}

// ---- both together ----

// How many lanes (a prefix) have more than `offset` bytes.
PENSTOCK_INLINE std::size_t lanes_beyond(const Lane* lanes, std::size_t count, std::uint32_t offset) {
  while (count > 0 && lanes[count - 1].length <= offset) --count;
  return count;
}

PENSTOCK_INLINE __mmask8 prefix_mask(std::size_t count, std::size_t first) {
  if (count <= first) return 0;
  return count - first >= 8 ? __mmask8{0xff} : static_cast<__mmask8>((1U << (count - first)) - 1);
}

template <bool Encrypt>
PENSTOCK_INLINE void run(const Lane* lanes, std::size_t count, std::uint8_t (*tags)[16]) {
  States states;
  load_states(states, lanes, count);
  V stream[16];
  key_stream(states, 0, stream);
  Poly poly[2];
  poly_init(poly[0], stream);
  poly_init(poly[1], stream + 8);
  const bool upper = count > 8;

  std::size_t active = lanes_beyond(lanes, count, 0);
  for (std::uint32_t offset = 0, block = 1; active > 0; offset += 64, ++block) {
    key_stream(states, block, stream);
    const std::size_t whole = lanes_beyond(lanes, active, offset + 63);  // have all 64 bytes of this block
    V text[16];
    for (std::size_t i = 0; i < kLanes; ++i) {
      if (i < whole) {
        std::uint8_t* at = lanes[i].data + offset;
        const V in = _mm512_loadu_si512(at);
        const V out = _mm512_xor_si512(in, stream[i]);
        _mm512_storeu_si512(at, out);
        text[i] = Encrypt ? out : in;
      } else if (i < active) {
        std::uint8_t* at = lanes[i].data + offset;
        const __mmask64 mask = (__mmask64{1} << (lanes[i].length - offset)) - 1;  // 1 to 63 bytes
        const V in = _mm512_maskz_loadu_epi8(mask, at);
        const V out = _mm512_xor_si512(in, stream[i]);
        _mm512_mask_storeu_epi8(at, mask, out);
        text[i] = Encrypt ? _mm512_maskz_mov_epi8(mask, out) : in;
      } else {
        text[i] = _mm512_setzero_si512();
      }
    }
    transpose_8x8(text);
    if (upper) transpose_8x8(text + 8);
    if (whole == kLanes) {
      for (int q = 0; q < 4; ++q) {
        poly_block<false>(poly[0], text[2 * q], text[2 * q + 1], 0xff);
        poly_block<false>(poly[1], text[8 + 2 * q], text[8 + 2 * q + 1], 0xff);
      }
    } else {
      for (std::uint32_t q = 0; q < 4; ++q) {
        const std::size_t with_block = lanes_beyond(lanes, active, offset + 16 * q);
        if (with_block == 0) break;
        poly_block<true>(poly[0], text[2 * q], text[2 * q + 1], prefix_mask(with_block, 0));
        if (with_block > 8) poly_block<true>(poly[1], text[8 + 2 * q], text[8 + 2 * q + 1], prefix_mask(with_block, 8));
      }
    }
    active = lanes_beyond(lanes, active, offset + 64);
  }

  // The closing block (RFC 8439 §2.8): length of the additional data (0), length of the ciphertext.
  alignas(64) std::uint64_t lengths[16];
  for (std::size_t i = 0; i < kLanes; ++i) lengths[i] = i < count ? lanes[i].length : 0;
  alignas(64) std::uint8_t all_tags[16][16];
  poly_block<false>(poly[0], _mm512_setzero_si512(), _mm512_load_si512(lengths), 0xff);
  poly_finish(poly[0], all_tags);
  if (upper) {
    poly_block<false>(poly[1], _mm512_setzero_si512(), _mm512_load_si512(lengths + 8), 0xff);
    poly_finish(poly[1], all_tags + 8);
  }
  __builtin_memcpy(tags, all_tags, count * 16);
}

}  // namespace

bool chacha20_poly1305_x16_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("avx512vbmi2");
}

void chacha20_poly1305_x16(const Lane* lanes, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]) {
  if (encrypt) {
    run<true>(lanes, count, tags);
  } else {
    run<false>(lanes, count, tags);
  }
}

}  // namespace penstock::wireguard

#else

namespace penstock::wireguard {

bool chacha20_poly1305_x16_supported() { return false; }
void chacha20_poly1305_x16(const Lane*, std::size_t, bool, std::uint8_t (*)[16]) { __builtin_trap(); }

}  // namespace penstock::wireguard

#endif
