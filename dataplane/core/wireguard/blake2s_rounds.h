// The rounds of BLAKE2s (RFC 7693 section 3.2) for words or vectors of words. Everything here is inlined into its user,
// so that files compiled for special instructions may include it.
#pragma once

#include <cstdint>

namespace penstock::wireguard {

// The initial chaining value, RFC 7693 §2.6, and the order of message words, §2.7.
inline constexpr std::uint32_t kBlake2sIv[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
inline constexpr std::uint8_t kBlake2sSigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

namespace {

template <int Bits, typename V>
inline __attribute__((always_inline)) V blake2s_rotate(V x) {
  return (x >> Bits) | (x << (32 - Bits));
}

template <typename V>
inline __attribute__((always_inline)) void blake2s_mix(V& a, V& b, V& c, V& d, V x, V y) {
  a += b + x;
  d = blake2s_rotate<16>(d ^ a);
  c += d;
  b = blake2s_rotate<12>(b ^ c);
  a += b + y;
  d = blake2s_rotate<8>(d ^ a);
  c += d;
  b = blake2s_rotate<7>(b ^ c);
}

template <int Round, typename V>
inline __attribute__((always_inline)) void blake2s_round(V* v, const V* m) {
  constexpr auto& order = kBlake2sSigma[Round];
  blake2s_mix(v[0], v[4], v[8], v[12], m[order[0]], m[order[1]]);
  blake2s_mix(v[1], v[5], v[9], v[13], m[order[2]], m[order[3]]);
  blake2s_mix(v[2], v[6], v[10], v[14], m[order[4]], m[order[5]]);
  blake2s_mix(v[3], v[7], v[11], v[15], m[order[6]], m[order[7]]);
  blake2s_mix(v[0], v[5], v[10], v[15], m[order[8]], m[order[9]]);
  blake2s_mix(v[1], v[6], v[11], v[12], m[order[10]], m[order[11]]);
  blake2s_mix(v[2], v[7], v[8], v[13], m[order[12]], m[order[13]]);
  blake2s_mix(v[3], v[4], v[9], v[14], m[order[14]], m[order[15]]);
}

// One block of message words `m` into the chaining value. `counted`: bytes hashed with this block.
template <typename V>
inline __attribute__((always_inline)) void blake2s_compress(V* chain, const V* m, std::uint64_t counted, bool last) {
  V v[16];
  for (int i = 0; i < 8; ++i) {
    v[i] = chain[i];
    v[i + 8] = V{} + kBlake2sIv[i];
  }
  v[12] ^= static_cast<std::uint32_t>(counted);
  v[13] ^= static_cast<std::uint32_t>(counted >> 32);
  if (last) v[14] = ~v[14];
  blake2s_round<0>(v, m);
  blake2s_round<1>(v, m);
  blake2s_round<2>(v, m);
  blake2s_round<3>(v, m);
  blake2s_round<4>(v, m);
  blake2s_round<5>(v, m);
  blake2s_round<6>(v, m);
  blake2s_round<7>(v, m);
  blake2s_round<8>(v, m);
  blake2s_round<9>(v, m);
  for (int i = 0; i < 8; ++i) chain[i] ^= v[i] ^ v[i + 8];
}

}  // namespace
}  // namespace penstock::wireguard
