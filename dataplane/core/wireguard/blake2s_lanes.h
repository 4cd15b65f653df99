// BLAKE2s of several messages of equal length at once: message i in lane i, with the compiler's vector types, so that
// the same text serves AVX2 (8 lanes), AVX-512 (16) and, in tests, any machine. Included by blake2s_x8.cc and
// blake2s_x16.cc, which are compiled for those instructions, and by nobody else but tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/core/wireguard/blake2s_rounds.h"

namespace penstock::wireguard {
namespace {

// Written out, since the compiler forgets the attribute of a type that depends on a template's argument.
template <std::size_t Lanes>
struct WordsOfLanes;
template <>
struct WordsOfLanes<8> {
  typedef std::uint32_t type __attribute__((vector_size(32)));
};
template <>
struct WordsOfLanes<16> {
  typedef std::uint32_t type __attribute__((vector_size(64)));
};

template <std::size_t Lanes>
struct Blake2sLanes {
  using V = typename WordsOfLanes<Lanes>::type;

  // MACs with 16 bytes of output of `messages[i]` (`length` > 0 bytes each) to `out[i]`: under one key whose chaining
  // value behind its block is `chain`, or, when `keys` is not null, each under its own key of 16 bytes.
  static void mac(const std::uint32_t* chain, const std::uint8_t* const* keys, const std::uint8_t* const* messages,
                  std::size_t length, std::uint8_t (*out)[16]) {
    V words[16], state[8];
    for (int i = 0; i < 8; ++i) state[i] = V{} + (keys != nullptr ? kBlake2sIv[i] : chain[i]);
    if (keys != nullptr) {
      state[0] ^= 0x01010000U ^ 16U << 8 ^ 16U;  // RFC 7693 §2.5: fan-out and depth 1, lengths of key and digest
      load(words, keys, 0, 16);
      blake2s_compress(state, words, 64, false);
    }
    for (std::size_t at = 0; at < length; at += 64) {
      const std::size_t here = length - at < 64 ? length - at : 64;
      load(words, messages, at, here);
      blake2s_compress(state, words, 64 + at + here, at + here == length);
    }
    for (std::size_t lane = 0; lane < Lanes; ++lane) {
      const std::uint32_t digest[4] = {state[0][lane], state[1][lane], state[2][lane], state[3][lane]};
      __builtin_memcpy(out[lane], digest, 16);
    }
  }

 private:
  // Word i of every lane's block to words[i].
  static inline __attribute__((always_inline)) void load(V* words, const std::uint8_t* const* from, std::size_t at,
                                                         std::size_t length) {
    alignas(64) std::uint32_t block[Lanes][16] = {};
    for (std::size_t lane = 0; lane < Lanes; ++lane) __builtin_memcpy(block[lane], from[lane] + at, length);
    for (std::size_t word = 0; word < 16; ++word)
      for (std::size_t lane = 0; lane < Lanes; ++lane) words[word][lane] = block[lane][word];
  }
};

}  // namespace
}  // namespace penstock::wireguard
