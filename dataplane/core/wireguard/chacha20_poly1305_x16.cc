#include "dataplane/core/wireguard/chacha20_poly1305_x16.h"

#if defined(__AVX512F__) && defined(__AVX512IFMA__) && defined(__AVX512VBMI2__) && defined(__BMI2__)

#include <immintrin.h>

// This file is compiled for AVX-512 and may run nowhere else, so it includes nothing with inline functions that the
// linker could merge into the rest of the program.
#define PENSTOCK_INLINE inline __attribute__((always_inline))

#include "dataplane/core/wireguard/chacha20_x16.h"
#include "dataplane/core/wireguard/poly1305_scalar.h"
#include "dataplane/core/wireguard/poly1305_x16.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kLanes = 16;
// Lanes are filled by one load from the first packet that waits, so there is room behind the last.
constexpr std::size_t kRoom = kX16MaxPackets + kLanes;

// What the lanes need of each packet, field by field, in the packets' order.
struct Waiting {
  alignas(64) std::uint32_t key[8][kRoom];
  std::uint32_t nonce[2][kRoom];
  std::uint32_t length[kRoom];
  alignas(64) std::uint64_t data[kRoom];
  const std::uint8_t* key_at[kRoom];
  std::uint64_t r0[kRoom], r1[kRoom], k0[kRoom], k1[kRoom];  // one-time keys of Poly1305
};

// Lanes that were given new packets: `first` to the lowest of `lanes`, and so on.
struct Seated {
  __mmask16 lanes = 0;
  std::size_t first = 0;
};

PENSTOCK_INLINE __mmask8 half_of(__mmask16 lanes, unsigned half) {
  return static_cast<__mmask8>(lanes >> (8 * half));
}

// ---- before the first block: keys ----

// Words of the keys of sixteen packets: from key-per-packet to word-per-register.
PENSTOCK_INLINE void load_keys(States& s, const std::uint8_t* const* keys) {
  V y[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // so that the 128-bit quarters below come out in order
    const int low = i < 4 ? i : i + 4;
    y[i] = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys[low]))),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys[low + 4])), 1);
  }
  V t[8];
  transpose_4x4(y, t);
  transpose_4x4(y + 4, t + 4);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    s.key[k] = _mm512_shuffle_i32x4(t[k], t[k + 4], 0x88);
    s.key[k + 4] = _mm512_shuffle_i32x4(t[k], t[k + 4], 0xdd);
  }
}

// 64-bit words of eight lanes out of their 32-bit halves.
PENSTOCK_INLINE V words64(V low, V high, unsigned half) {
  const V first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const V second = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
  return _mm512_permutex2var_epi32(low, half == 0 ? first : second, high);
}

// What is taken over as it is. Behind the last packet it is repeated: the same work for nobody.
PENSTOCK_INLINE void list(Waiting& w, const Lane* packets, std::size_t count) {
  for (std::size_t i = 0; i < (count + kLanes - 1) / kLanes * kLanes; ++i) {
    const Lane& packet = packets[i < count ? i : count - 1];
    w.nonce[0][i] = static_cast<std::uint32_t>(packet.counter);
    w.nonce[1][i] = static_cast<std::uint32_t>(packet.counter >> 32);
    w.length[i] = packet.length;
    w.data[i] = reinterpret_cast<std::uintptr_t>(packet.data);
    w.key_at[i] = packet.key;
  }
}

// Block 0 of the key streams: one-time keys (RFC 8439 §2.6) of the packets from `first` on.
PENSTOCK_INLINE void prepare(Waiting& w, std::size_t first) {
  States s;
  load_keys(s, w.key_at + first);
  for (int i = 0; i < 2; ++i) s.nonce[i] = _mm512_load_si512(&w.nonce[i][first]);
  s.block = _mm512_setzero_si512();
  for (int i = 0; i < 8; ++i) _mm512_store_si512(&w.key[i][first], s.key[i]);

  V x[16];
  rounds(s, x, [](unsigned) {});
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = _mm512_add_epi32(x[i], initial(s, i));
#pragma GCC unroll 2
  for (unsigned half = 0; half < 2; ++half) {
    const std::size_t at = first + 8 * half;
    _mm512_store_si512(&w.r0[at], _mm512_and_si512(words64(x[0], x[1], half), all(0x0ffffffc0fffffffULL)));
    _mm512_store_si512(&w.r1[at], _mm512_and_si512(words64(x[2], x[3], half), all(0x0ffffffc0ffffffcULL)));
    _mm512_store_si512(&w.k0[at], words64(x[4], x[5], half));
    _mm512_store_si512(&w.k1[at], words64(x[6], x[7], half));
  }
}

// ---- lanes ----

template <bool All>
PENSTOCK_INLINE void seat32(V& lanes, __mmask16 free, const std::uint32_t* from) {
  const V values = _mm512_loadu_si512(from);
  lanes = All ? values : _mm512_mask_expand_epi32(lanes, free, values);
}
template <bool All>
PENSTOCK_INLINE void seat64(V& lanes, __mmask8 free, const std::uint64_t* from) {
  const V values = _mm512_loadu_si512(from);
  lanes = All ? values : _mm512_mask_expand_epi64(lanes, free, values);
}

// Key streams and what they are applied to.
struct Cipher {
  States states;
  V left;     // bytes, per lane
  V data[2];  // where they are
  __mmask16 active = 0;

  PENSTOCK_INLINE Seated seat(const Waiting& w, std::size_t& next, std::size_t count) {
    const auto free = static_cast<__mmask16>(~active);
    const std::size_t waiting = count - next;
    const auto lanes = static_cast<__mmask16>(waiting >= kLanes ? free : _pdep_u32((1U << waiting) - 1, free));
    const Seated seated{lanes, next};
    if (lanes == 0xffff) {
      fill<true>(w, lanes, next);
    } else {
      fill<false>(w, lanes, next);
    }
    active = active | lanes;
    next += static_cast<std::size_t>(__builtin_popcount(lanes));
    return seated;
  }

  template <bool All>
  PENSTOCK_INLINE void fill(const Waiting& w, __mmask16 lanes, std::size_t from) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) seat32<All>(states.key[i], lanes, &w.key[i][from]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) seat32<All>(states.nonce[i], lanes, &w.nonce[i][from]);
    seat32<All>(left, lanes, &w.length[from]);
    seat64<All>(data[0], half_of(lanes, 0), &w.data[from]);
    seat64<All>(data[1], half_of(lanes, 1), &w.data[from + static_cast<std::size_t>(__builtin_popcount(lanes & 0xff))]);
    const V one = _mm512_set1_epi32(1);
    states.block = All ? one : _mm512_mask_mov_epi32(states.block, lanes, one);
  }

  // To the next 64 bytes; returns the lanes that have none and are free now.
  PENSTOCK_INLINE __mmask16 advance() {
    const V block = _mm512_set1_epi32(64);
    left = _mm512_sub_epi32(_mm512_max_epu32(left, block), block);
    data[0] = _mm512_add_epi64(data[0], all(64));
    data[1] = _mm512_add_epi64(data[1], all(64));
    states.block = _mm512_add_epi32(states.block, _mm512_set1_epi32(1));
    const auto ended = static_cast<__mmask16>(active & ~_mm512_test_epi32_mask(left, left));
    active = static_cast<__mmask16>(active & ~ended);
    return ended;
  }
};

// Ciphertext that Poly1305 has yet to take, which it does between the rounds of the next blocks. Lanes 0 to 7 are one
// vector's; 8 to 15 are taken one by one, by the scalar units, which have nothing else to do meanwhile.
struct Authenticator {
  static constexpr unsigned kBlocks = 5;  // in 64 bytes of a packet, and the closing one (RFC 8439 §2.8)
  __mmask16 has[kBlocks] = {};            // which lanes have those blocks
  Seated seated;                          // lanes that are new when all that is done
  std::size_t packet[kLanes];             // whose they are
  // Lanes 0 to 7, and low and high words of their blocks.
  Poly8 vector;
  V text[kBlocks][2];
  // Lanes 8 to 15, and for each of them one more that takes what is no block of theirs.
  Poly scalar[16];
  alignas(64) std::uint8_t bytes[8][128];

  Authenticator() { text[kBlocks - 1][0] = _mm512_setzero_si512(); }

  PENSTOCK_INLINE void between(unsigned i) {
    const unsigned q = i / 4;
    const __mmask8 vectors = half_of(has[q], 0);
    if (i % 4 == 0 && vectors != 0) poly8_block(vector, text[q][0], text[q][1], vectors);
    const unsigned none = ~static_cast<unsigned>(has[q]) >> 8 & 0xff;
    if (none == 0xff) return;
    const unsigned a = 2 * (i % 4), b = a + 1;
    Poly* const pair = scalar + a;
    poly_block(pair[(none >> a & 1) * 8], bytes[a] + 16 * q);
    poly_block(pair[1 + (none >> b & 1) * 8], bytes[b] + 16 * q);
  }

  // The same all at once, when no blocks are left.
  PENSTOCK_INLINE void rest() {
#pragma GCC unroll 1
    for (unsigned q = 0; q < kBlocks; ++q) {
      if (half_of(has[q], 0) != 0) poly8_block(vector, text[q][0], text[q][1], half_of(has[q], 0));
#pragma GCC unroll 1
      for (unsigned lane = 0; lane < kLanes / 2; ++lane)
        if ((has[q] >> (8 + lane) & 1) != 0) poly_block(scalar[lane], bytes[lane] + 16 * q);
    }
  }

  PENSTOCK_INLINE void finish(std::uint8_t (*tags)[16]) {
    const unsigned ended = has[kBlocks - 1];
    if ((ended & 0xff) != 0) {
      alignas(64) std::uint64_t low[8], high[8];
      V low_half, high_half;
      poly8_finish(vector, low_half, high_half);
      _mm512_store_si512(low, low_half);
      _mm512_store_si512(high, high_half);
      for (unsigned lanes = ended & 0xff; lanes != 0; lanes &= lanes - 1) {
        const auto lane = static_cast<unsigned>(__builtin_ctz(lanes));
        store64(tags[packet[lane]], low[lane]);
        store64(tags[packet[lane]] + 8, high[lane]);
      }
    }
    for (unsigned lanes = ended >> 8; lanes != 0; lanes &= lanes - 1) {
      const auto lane = static_cast<unsigned>(__builtin_ctz(lanes));
      poly_finish(scalar[lane], tags[packet[8 + lane]]);
    }
  }

  PENSTOCK_INLINE void seat(const Waiting& w) {
    const __mmask8 free = half_of(seated.lanes, 0);
    std::size_t from = seated.first;
    if (free != 0) {
      V r0 = _mm512_setzero_si512(), r1 = r0;
      seat64<false>(r0, free, &w.r0[from]);
      seat64<false>(r1, free, &w.r1[from]);
      seat64<false>(vector.k0, free, &w.k0[from]);
      seat64<false>(vector.k1, free, &w.k1[from]);
      poly8_start(vector, free, r0, r1);
      const __m256i lengths = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&w.length[from]));
      text[kBlocks - 1][1] = _mm512_mask_expand_epi64(text[kBlocks - 1][1], free, _mm512_cvtepu32_epi64(lengths));
      for (unsigned lanes = free; lanes != 0; lanes &= lanes - 1) packet[__builtin_ctz(lanes)] = from++;
    }
    for (unsigned lanes = half_of(seated.lanes, 1); lanes != 0; lanes &= lanes - 1) {
      const auto lane = static_cast<unsigned>(__builtin_ctz(lanes));
      scalar[lane] = {w.r0[from], w.r1[from], w.r1[from] + (w.r1[from] >> 2), 0, 0, 0, w.k0[from], w.k1[from]};
      store64(bytes[lane] + 64, 0);
      store64(bytes[lane] + 72, w.length[from]);
      packet[8 + lane] = from++;
    }
  }
};

// ---- both together ----

// Applies key streams, one register a packet, to the next 64 bytes of every lane or what is left of them.
template <bool Encrypt>
PENSTOCK_INLINE void apply(Cipher& c, Authenticator& a, const V (&stream)[16]) {
  alignas(64) std::uint64_t at[kLanes];
  _mm512_store_si512(at, c.data[0]);
  _mm512_store_si512(at + 8, c.data[1]);
  V text[kLanes];
  const __mmask16 whole = _mm512_cmpge_epu32_mask(c.left, _mm512_set1_epi32(64));
  if (whole == 0xffff) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLanes; ++i) {
      void* const bytes = reinterpret_cast<void*>(at[i]);
      const V in = _mm512_loadu_si512(bytes);
      const V out = _mm512_xor_si512(in, stream[i]);
      _mm512_storeu_si512(bytes, out);
      text[i] = Encrypt ? out : in;
    }
  } else {
    alignas(64) std::uint32_t left[kLanes];
    _mm512_store_si512(left, c.left);
    for (std::size_t i = 0; i < kLanes; ++i) text[i] = stream[i];
#pragma GCC unroll 1
    for (std::size_t i = 0; i < kLanes; ++i) {
      void* const bytes = reinterpret_cast<void*>(at[i]);
      if (left[i] == 0) {  // its address may be nobody's: a masked load from there is slow
        text[i] = _mm512_setzero_si512();
        continue;
      }
      const __mmask64 mask = left[i] >= 64 ? ~__mmask64{0} : (__mmask64{1} << left[i]) - 1;
      const V in = _mm512_maskz_loadu_epi8(mask, bytes);
      const V out = _mm512_maskz_mov_epi8(mask, _mm512_xor_si512(in, text[i]));
      if (left[i] >= 64) {
        _mm512_storeu_si512(bytes, out);
      } else {
        _mm512_mask_storeu_epi8(bytes, mask, out);
      }
      text[i] = Encrypt ? out : in;
    }
  }
  transpose_8x8(text);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 8; ++i) {
    a.text[i / 2][i % 2] = text[i];
    _mm512_store_si512(a.bytes[i], text[8 + i]);
  }
}

template <bool Encrypt>
PENSTOCK_INLINE void run(const Lane* packets, std::size_t count, std::uint8_t (*tags)[16]) {
  Waiting waiting;
  list(waiting, packets, count);
  for (std::size_t first = 0; first < count; first += kLanes) prepare(waiting, first);

  Cipher cipher{};
  Authenticator authenticator;
  std::size_t next = 0;
  authenticator.seated = cipher.seat(waiting, next, count);
  while (cipher.active != 0) {
    V x[16];
    rounds(cipher.states, x, [&](unsigned i) { authenticator.between(i); });
    authenticator.finish(tags);
    if (authenticator.seated.lanes != 0) authenticator.seat(waiting);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[i] = _mm512_add_epi32(x[i], initial(cipher.states, i));
    transpose_16x16(x);
    apply<Encrypt>(cipher, authenticator, x);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q)
      authenticator.has[q] = _mm512_cmpgt_epu32_mask(cipher.left, _mm512_set1_epi32(16 * q));
    const __mmask16 ended = cipher.advance();
    authenticator.has[4] = ended;
    authenticator.seated = {};
    if (ended != 0 && next < count) authenticator.seated = cipher.seat(waiting, next, count);
  }
  authenticator.rest();
  authenticator.finish(tags);
}

}  // namespace

bool chacha20_poly1305_x16_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("bmi2");
}

void chacha20_poly1305_x16(const Lane* packets, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]) {
  if (encrypt) {
    run<true>(packets, count, tags);
  } else {
    run<false>(packets, count, tags);
  }
}

}  // namespace penstock::wireguard

#else

namespace penstock::wireguard {

bool chacha20_poly1305_x16_supported() { return false; }
void chacha20_poly1305_x16(const Lane*, std::size_t, bool, std::uint8_t (*)[16]) { __builtin_trap(); }

}  // namespace penstock::wireguard

#endif
