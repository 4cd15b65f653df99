// ChaCha20-Poly1305 (RFC 8439) of many packets at once with AVX-512: sixteen packets at work, one in each lane.
//
// Theory of operation. ChaCha20's state is sixteen 32-bit words; word w of sixteen packets fills one AVX-512 register,
// so sixteen registers hold sixteen states and every instruction advances sixteen packets. A 16x16 transpose then gives
// each packet its 64 bytes of key stream. First come all packets' blocks 0, which give the keys of Poly1305; then the
// lanes go through their packets 64 bytes at a time, and a lane whose packet has ended takes the next one that waits.
// So packets of any mix of lengths cost what their blocks cost, as long as some wait: the long ones should come first.
//
// Poly1305 takes the ciphertext between the rounds of the next blocks. Lanes 0 to 7 share a vector (poly1305_x16.h):
// eight accumulators in three registers of 44-, 44- and 42-bit limbs, multiplied with IFMA. Lanes 8 to 15 are
// authenticated by the scalar units (poly1305_scalar.h), which are idle meanwhile. With all lanes in vectors the
// whole takes an eighth longer, with none a sixth.
//
// Constant time with respect to keys and data: no branch or address depends on either, only on lengths.
// Needs AVX-512 F, BW, DQ, VL, IFMA and VBMI2, and BMI2; `chacha20_poly1305_x16_supported()` tells. Any thread, no
// state.
#pragma once

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {

inline constexpr std::size_t kX16MaxPackets = 64;

[[nodiscard]] bool chacha20_poly1305_x16_supported();

// Encrypts (or decrypts) `packets[0 .. count)` in place and computes their tags over the ciphertext, with empty
// additional data. `count` is 1 to kX16MaxPackets; any lengths in any order, the long ones better first. `tags`
// receives 16 bytes per packet.
void chacha20_poly1305_x16(const Lane* packets, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]);

}  // namespace penstock::wireguard
