// The primitives of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s and of WireGuard's cookies, over OpenSSL 3 except for
// BLAKE2s, which is our own (blake2s.h) unless set_own_blake2s says otherwise.
//
// Algorithms are fetched once per process and contexts are kept per thread, so that a message costs no look-ups. Any
// thread. Functions that can fail in the library or on bad input return false and leave their output unspecified.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/messages.h"

struct evp_pkey_st;
struct evp_pkey_ctx_st;

namespace penstock::wireguard {

using Hash = std::array<std::uint8_t, 32>;
using Mac = std::array<std::uint8_t, kMacSize>;
using Parts = std::initializer_list<Bytes>;  // concatenated

// Whose BLAKE2s is used from now on, ours (the default) or OpenSSL's; for the whole process, at its start.
void set_own_blake2s(bool own);
[[nodiscard]] bool own_blake2s();

// BLAKE2s-256.
[[nodiscard]] Hash hash(Parts parts);
// Keyed BLAKE2s with 16 bytes of output; `key` at most 32 bytes.
[[nodiscard]] Mac mac(Bytes key, Parts parts);
// HMAC-BLAKE2s (RFC 2104).
[[nodiscard]] Hash hmac(Bytes key, Parts parts);

// HKDF as the whitepaper's KDF_n: n outputs of 32 bytes.
void kdf(const Hash& key, Bytes input, std::span<Hash> out);
template <std::size_t n>
[[nodiscard]] std::array<Hash, n> kdf(const Hash& key, Bytes input) {
  std::array<Hash, n> out;
  kdf(key, input, out);
  return out;
}

// ChaCha20-Poly1305 with additional data; `sealed` is 16 bytes longer than `plain`. Buffers may not overlap.
bool aead_seal(const Hash& key, std::uint64_t counter, Bytes ad, Bytes plain, MutableBytes sealed);
bool aead_open(const Hash& key, std::uint64_t counter, Bytes ad, Bytes sealed, MutableBytes plain);

using XNonce = std::array<std::uint8_t, 24>;
// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha).
bool xaead_seal(const Hash& key, const XNonce& nonce, Bytes ad, Bytes plain, MutableBytes sealed);
bool xaead_open(const Hash& key, const XNonce& nonce, Bytes ad, Bytes sealed, MutableBytes plain);
// The subkey derivation of XChaCha20; exposed for its test vectors.
[[nodiscard]] Hash hchacha20(const Hash& key, const std::array<std::uint8_t, 16>& nonce);

// Compares without early exit.
[[nodiscard]] bool equal_constant_time(Bytes a, Bytes b);

// An X25519 private key ready for use, with its public key. One thread at a time: the library's context is kept, since
// making one costs a tenth of a multiplication.
class DhKey {
 public:
  DhKey() = default;
  explicit DhKey(const PrivateKey& key);

  [[nodiscard]] bool valid() const { return key_ != nullptr; }
  [[nodiscard]] const PublicKey& public_key() const { return public_key_; }
  // False for a point of small order (the shared secret would be zero).
  bool agree(const PublicKey& other, Hash& shared) const;

 private:
  struct Free {
    void operator()(evp_pkey_st* key) const;
  };
  struct FreeContext {
    void operator()(evp_pkey_ctx_st* context) const;
  };
  std::unique_ptr<evp_pkey_st, Free> key_;
  std::unique_ptr<evp_pkey_ctx_st, FreeContext> context_;  // ready to derive
  PublicKey public_key_{};
};

}  // namespace penstock::wireguard
