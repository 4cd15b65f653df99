// ChaCha20-Poly1305 (RFC 8439) of many packets at once with AVX2: eight ChaCha20 blocks in flight, of any packets.
//
// Theory of operation. ChaCha20's state is sixteen 32-bit words; word w of eight blocks fills one AVX2 register, so
// sixteen registers advance eight blocks together. Which eight does not matter: every turn ("stripe") takes the next
// block of up to eight packets, a packet that ends makes room for the next at once, and what is left of the stripe when
// fewer than eight packets remain goes to further blocks of those. So packets of any mix of lengths cost what their
// blocks cost, and a single long packet has its own blocks side by side.
//
// Poly1305 is scalar (64-bit limbs, RFC 8439 §2.5): its multiplications run on other units of the processor than the
// vectors, so the blocks of one stripe are authenticated between the rounds of the next, nearly for nothing. Successive
// steps belong to different packets where there are several, because one packet's are a chain.
//
// Constant time with respect to keys and data: no branch or address depends on either, only on lengths.
// Needs AVX2 and BMI2; `chacha20_poly1305_x8_supported()` tells. Any thread, no state.
#pragma once

#include "dataplane/core/wireguard/lane.h"

namespace penstock::wireguard {

inline constexpr std::size_t kX8MaxPackets = 64;

[[nodiscard]] bool chacha20_poly1305_x8_supported();

// Encrypts (or decrypts) `packets[0 .. count)` in place and computes their tags over the ciphertext, with empty
// additional data. `count` is 1 to kX8MaxPackets; any lengths in any order. `tags` receives 16 bytes per packet.
void chacha20_poly1305_x8(const Lane* packets, std::size_t count, bool encrypt, std::uint8_t (*tags)[16]);

}  // namespace penstock::wireguard
