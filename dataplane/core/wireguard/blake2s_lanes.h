// BLAKE2s of several messages of equal length at once: message i in lane i, with the compiler's vector types, so that
// the same text serves AVX2 (8 lanes), AVX-512 (16) and, in tests, any machine. Included by blake2s_x8.cc and
// blake2s_x16.cc, which are compiled for those instructions, and by nobody else but tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/core/wireguard/blake2s_tables.h"

namespace penstock::wireguard {
namespace {

template <std::size_t Lanes>
struct Blake2sLanes {
  typedef std::uint32_t V __attribute__((vector_size(4 * Lanes)));  // NOLINT: `using` drops the attribute's dependence

  template <int Bits>
  static inline __attribute__((always_inline)) V rotate_right(V x) {
    return (x >> Bits) | (x << (32 - Bits));
  }

  static inline __attribute__((always_inline)) void mix(V& a, V& b, V& c, V& d, V x, V y) {
    a += b + x;
    d = rotate_right<16>(d ^ a);
    c += d;
    b = rotate_right<12>(b ^ c);
    a += b + y;
    d = rotate_right<8>(d ^ a);
    c += d;
    b = rotate_right<7>(b ^ c);
  }

  template <const std::uint8_t (&Order)[16]>
  static inline __attribute__((always_inline)) void round(V* v, const V* m) {
    mix(v[0], v[4], v[8], v[12], m[Order[0]], m[Order[1]]);
    mix(v[1], v[5], v[9], v[13], m[Order[2]], m[Order[3]]);
    mix(v[2], v[6], v[10], v[14], m[Order[4]], m[Order[5]]);
    mix(v[3], v[7], v[11], v[15], m[Order[6]], m[Order[7]]);
    mix(v[0], v[5], v[10], v[15], m[Order[8]], m[Order[9]]);
    mix(v[1], v[6], v[11], v[12], m[Order[10]], m[Order[11]]);
    mix(v[2], v[7], v[8], v[13], m[Order[12]], m[Order[13]]);
    mix(v[3], v[4], v[9], v[14], m[Order[14]], m[Order[15]]);
  }

  // `counted`: bytes hashed with this block, the same in every lane.
  static void compress(V* chain, const std::uint32_t (*words)[Lanes], std::uint64_t counted, bool last) {
    V m[16];
    __builtin_memcpy(m, words, sizeof m);
    V v[16];
    for (int i = 0; i < 8; ++i) {
      v[i] = chain[i];
      v[i + 8] = V{} + kBlake2sIv[i];
    }
    v[12] ^= static_cast<std::uint32_t>(counted);
    v[13] ^= static_cast<std::uint32_t>(counted >> 32);
    if (last) v[14] = ~v[14];
    round<kBlake2sSigma[0]>(v, m);
    round<kBlake2sSigma[1]>(v, m);
    round<kBlake2sSigma[2]>(v, m);
    round<kBlake2sSigma[3]>(v, m);
    round<kBlake2sSigma[4]>(v, m);
    round<kBlake2sSigma[5]>(v, m);
    round<kBlake2sSigma[6]>(v, m);
    round<kBlake2sSigma[7]>(v, m);
    round<kBlake2sSigma[8]>(v, m);
    round<kBlake2sSigma[9]>(v, m);
    for (int i = 0; i < 8; ++i) chain[i] ^= v[i] ^ v[i + 8];
  }

  // MACs with 16 bytes of output of `messages[i]` (`length` > 0 bytes each) to `out[i]`: under one key whose chaining
  // value behind its block is `chain`, or, when `keys` is not null, each under its own key of 16 bytes.
  static void mac(const std::uint32_t* chain, const std::uint8_t* const* keys, const std::uint8_t* const* messages,
                  std::size_t length, std::uint8_t (*out)[16]) {
    alignas(64) std::uint32_t words[16][Lanes] = {};
    V state[8];
    for (int i = 0; i < 8; ++i) state[i] = V{} + (keys != nullptr ? kBlake2sIv[i] : chain[i]);
    if (keys != nullptr) {
      state[0] ^= 0x01010000U ^ 16U << 8 ^ 16U;  // RFC 7693 §2.5: fan-out and depth 1, lengths of key and digest
      load(words, keys, 0, 16);
      compress(state, words, 64, false);
    }
    for (std::size_t at = 0; at < length; at += 64) {
      const std::size_t here = length - at < 64 ? length - at : 64;
      load(words, messages, at, here);
      compress(state, words, 64 + at + here, at + here == length);
    }
    __builtin_memcpy(words, state, sizeof state);
    for (std::size_t lane = 0; lane < Lanes; ++lane) {
      const std::uint32_t digest[4] = {words[0][lane], words[1][lane], words[2][lane], words[3][lane]};
      __builtin_memcpy(out[lane], digest, 16);
    }
  }

 private:
  // Word i of every lane's block to words[i].
  static inline __attribute__((always_inline)) void load(std::uint32_t (*words)[Lanes], const std::uint8_t* const* from,
                                                         std::size_t at, std::size_t length) {
    for (std::size_t lane = 0; lane < Lanes; ++lane) {
      std::uint32_t block[16] = {};
      __builtin_memcpy(block, from[lane] + at, length);
      for (std::size_t word = 0; word < 16; ++word) words[word][lane] = block[word];
    }
  }
};

}  // namespace
}  // namespace penstock::wireguard
