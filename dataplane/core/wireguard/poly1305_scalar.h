// Poly1305 (RFC 8439 §2.5) with 64-bit limbs: one 16-byte block at a time.
// Part of chacha20_poly1305_x8.cc and chacha20_poly1305_x16.cc, which alone include it: everything here has internal
// linkage. Needs BMI2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::wireguard {
namespace {

using Wide = unsigned __int128;

struct Poly {
  std::uint64_t r0, r1;  // clamped
  std::uint64_t s1;      // r1 * 5 / 4: a limb that wraps past 2^130 comes back times 5, and r1 is a multiple of 4
  std::uint64_t h0, h1, h2;
  std::uint64_t k0, k1;  // the final addend
};

PENSTOCK_INLINE std::uint64_t load64(const std::uint8_t* at) {
  std::uint64_t value;
  __builtin_memcpy(&value, at, 8);
  return value;
}

PENSTOCK_INLINE void store64(std::uint8_t* at, std::uint64_t value) {
  __builtin_memcpy(at, &value, 8);
}

[[maybe_unused]] void poly_init(Poly& p, const std::uint8_t* key) {
  p.r0 = load64(key) & 0x0ffffffc0fffffffULL;
  p.r1 = load64(key + 8) & 0x0ffffffc0ffffffcULL;
  p.s1 = p.r1 + (p.r1 >> 2);
  p.h0 = p.h1 = p.h2 = 0;
  p.k0 = load64(key + 16);
  p.k1 = load64(key + 24);
}

// h = (h + block + 2^128) * r, partially reduced: h2 stays below 8. In assembly, since the compiler needs twice as many
// instructions for carries through 128-bit integers, and instructions are what the stripes run out of.
PENSTOCK_INLINE void poly_block(Poly& p, const std::uint8_t* block) {
  std::uint64_t h0 = p.h0, h1 = p.h1, h2 = p.h2;
  std::uint64_t a0, a1, b0, b1, c0;
  asm("add   (%[block]), %[h0]\n\t"
      "adc   8(%[block]), %[h1]\n\t"
      "adc   $1, %[h2]\n\t"
      "mov   %[r0], %%rdx\n\t"
      "mulx  %[h0], %[a0], %[a1]\n\t"  // a = h0 r0
      "mulx  %[h1], %[b0], %[b1]\n\t"  // b = h1 r0
      "mov   %[r1], %%rdx\n\t"
      "mulx  %[h0], %[c0], %[h0]\n\t"  // (c0, h0) = h0 r1
      "add   %[b0], %[c0]\n\t"
      "adc   %[b1], %[h0]\n\t"  // ... + h1 r0
      "mov   %[s1], %%rdx\n\t"
      "mulx  %[h1], %[b0], %[h1]\n\t"  // (b0, h1) = h1 s1
      "add   %[b0], %[a0]\n\t"
      "adc   %[h1], %[a1]\n\t"  // a += h1 s1
      "imul  %[h2], %%rdx\n\t"
      "add   %%rdx, %[c0]\n\t"
      "adc   $0, %[h0]\n\t"  // (c0, h0) += h2 s1
      "imul  %[r0], %[h2]\n\t"
      "add   %[a1], %[c0]\n\t"
      "adc   %[h0], %[h2]\n\t"  // the product is (a0, c0, h2)
      "mov   %[h2], %[b0]\n\t"
      "shr   $2, %[b0]\n\t"
      "and   $3, %[h2]\n\t"
      "lea   (%[b0], %[b0], 4), %[b0]\n\t"  // what is above 2^130 comes back times 5
      "add   %[b0], %[a0]\n\t"
      "adc   $0, %[c0]\n\t"
      "adc   $0, %[h2]"
      : [h0] "+&r"(h0), [h1] "+&r"(h1), [h2] "+&r"(h2), [a0] "=&r"(a0), [a1] "=&r"(a1), [b0] "=&r"(b0),
        [b1] "=&r"(b1), [c0] "=&r"(c0)
      : [r0] "m"(p.r0), [r1] "m"(p.r1), [s1] "m"(p.s1), [block] "r"(block),
        "m"(*reinterpret_cast<const std::uint8_t(*)[16]>(block))
      : "rdx", "cc");
  p.h0 = a0;
  p.h1 = c0;
  p.h2 = h2;
}

void poly_finish(const Poly& p, std::uint8_t* tag) {
  // g = h + 5 - 2^130; take g where it is not negative.
  Wide sum = Wide{p.h0} + 5;
  const auto g0 = static_cast<std::uint64_t>(sum);
  sum = Wide{p.h1} + static_cast<std::uint64_t>(sum >> 64);
  const auto g1 = static_cast<std::uint64_t>(sum);
  const std::uint64_t g2 = p.h2 + static_cast<std::uint64_t>(sum >> 64);
  const std::uint64_t take = ~((g2 >> 2) - 1);  // all ones when h >= 2^130 - 5; g2 is below 8
  const std::uint64_t h0 = (p.h0 & ~take) | (g0 & take);
  const std::uint64_t h1 = (p.h1 & ~take) | (g1 & take);
  sum = Wide{h0} + p.k0;
  store64(tag, static_cast<std::uint64_t>(sum));
  store64(tag + 8, h1 + p.k1 + static_cast<std::uint64_t>(sum >> 64));
}

}  // namespace
}  // namespace penstock::wireguard
