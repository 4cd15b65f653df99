// ChaCha20-Poly1305 with WireGuard's nonce by OpenSSL, written apart from the backends: what they are compared with.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock::wireguard {

// Ciphertext and tag.
[[nodiscard]] std::vector<std::uint8_t> reference_seal(const std::uint8_t* key, std::uint64_t counter,
                                                       const std::vector<std::uint8_t>& plain);
// The tag that Poly1305 alone (RFC 8439 §2.5) gives `message` under the 32-byte one-time key.
[[nodiscard]] std::vector<std::uint8_t> reference_poly1305(const std::uint8_t* key,
                                                           const std::vector<std::uint8_t>& message);

}  // namespace penstock::wireguard
