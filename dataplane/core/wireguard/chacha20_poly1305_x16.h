// ChaCha20-Poly1305 (RFC 8439) of up to sixteen packets at once: one packet per lane.
//
// Theory of operation. ChaCha20's state is sixteen 32-bit words. Word w of sixteen packets fills one AVX-512 register,
// so sixteen registers hold sixteen states and every quarter-round instruction advances sixteen packets; a 16x16
// transpose then gives each packet its 64 bytes of key stream. Poly1305 keeps the accumulator of eight packets in three
// registers of 44-, 44- and 42-bit limbs and multiplies with IFMA. Keys, counters and lengths may differ per lane;
// lanes are sorted by length, so "who is still at work" is always a prefix and masks are cheap. Sixteen short packets
// cost little more than one, which is where per-packet implementations drown in set-up.
//
// Constant time with respect to keys and data: no branch or address depends on either, only on lengths.
// Needs AVX-512 F, BW, DQ, VL, IFMA and VBMI2; `chacha20_poly1305_x16_supported()` tells. Any thread, no state.
#pragma once

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {

inline constexpr std::size_t kLanes = 16;

[[nodiscard]] bool chacha20_poly1305_x16_supported();

// Encrypts (or decrypts) `lanes[0 .. count)` in place and computes the tag over the ciphertext, with empty additional
// data. `count` is 1 to 16 and the lanes stand in order of falling length. `tags` receives 16 bytes per lane.
void chacha20_poly1305_x16(const Lane* lanes, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]);

}  // namespace penstock::wireguard
