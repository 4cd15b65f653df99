#include "dataplane/core/wireguard/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstdlib>

#include "dataplane/core/wireguard/blake2s.h"

namespace penstock::wireguard {
namespace {

// Without these algorithms there is no WireGuard; a build of OpenSSL without them ends the process at first use.
template <typename T>
T* required(T* object) {
  if (object == nullptr) std::abort();
  return object;
}

struct Algorithms {
  EVP_CIPHER* aead = required(EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr));
  EVP_CIPHER* chacha20 = required(EVP_CIPHER_fetch(nullptr, "ChaCha20", nullptr));
};

// Kept until the process ends: threads may still use them while statics are being destroyed.
const Algorithms& algorithms() {
  static const Algorithms* const fetched = new Algorithms;
  return *fetched;
}

struct Contexts {
  EVP_CIPHER_CTX* cipher = required(EVP_CIPHER_CTX_new());

  Contexts() = default;
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;
  ~Contexts() {
    EVP_CIPHER_CTX_free(cipher);
  }
};

Contexts& contexts() {
  thread_local Contexts own;
  return own;
}

using Nonce = std::array<std::uint8_t, 12>;

Nonce nonce_of(std::uint64_t counter) {
  Nonce nonce{};
  store_le(nonce.data() + 4, counter);
  return nonce;
}

bool seal(const Hash& key, const Nonce& nonce, Bytes ad, Bytes plain, MutableBytes sealed) {
  if (sealed.size() != plain.size() + kTagSize) return false;
  EVP_CIPHER_CTX* context = contexts().cipher;
  int length = 0;
  if (EVP_EncryptInit_ex2(context, algorithms().aead, key.data(), nonce.data(), nullptr) != 1) return false;
  if (!ad.empty() && EVP_EncryptUpdate(context, nullptr, &length, ad.data(), static_cast<int>(ad.size())) != 1)
    return false;
  if (!plain.empty() &&
      EVP_EncryptUpdate(context, sealed.data(), &length, plain.data(), static_cast<int>(plain.size())) != 1)
    return false;
  return EVP_EncryptFinal_ex(context, sealed.data() + plain.size(), &length) == 1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagSize, sealed.data() + plain.size()) == 1;
}

bool open(const Hash& key, const Nonce& nonce, Bytes ad, Bytes sealed, MutableBytes plain) {
  if (sealed.size() != plain.size() + kTagSize) return false;
  EVP_CIPHER_CTX* context = contexts().cipher;
  int length = 0;
  std::array<std::uint8_t, kTagSize> tag;
  std::memcpy(tag.data(), sealed.data() + plain.size(), kTagSize);
  if (EVP_DecryptInit_ex2(context, algorithms().aead, key.data(), nonce.data(), nullptr) != 1) return false;
  if (EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagSize, tag.data()) != 1) return false;
  if (!ad.empty() && EVP_DecryptUpdate(context, nullptr, &length, ad.data(), static_cast<int>(ad.size())) != 1)
    return false;
  if (!plain.empty() &&
      EVP_DecryptUpdate(context, plain.data(), &length, sealed.data(), static_cast<int>(plain.size())) != 1)
    return false;
  std::array<std::uint8_t, kTagSize> rest;
  return EVP_DecryptFinal_ex(context, rest.data(), &length) == 1;
}

// XChaCha20: a subkey from the first 16 bytes of the nonce, the rest behind four zero bytes.
Nonce xnonce_rest(const XNonce& nonce) {
  Nonce rest{};
  std::memcpy(rest.data() + 4, nonce.data() + 16, 8);
  return rest;
}
std::array<std::uint8_t, 16> xnonce_head(const XNonce& nonce) {
  std::array<std::uint8_t, 16> head;
  std::memcpy(head.data(), nonce.data(), head.size());
  return head;
}

}  // namespace

Hash hash(Parts parts) {
  Hash out;
  Blake2s state(out.size());
  for (const Bytes part : parts) state.update(part);
  state.finish(out);
  return out;
}

Mac mac(Bytes key, Parts parts) {
  Mac out;
  Blake2s state(out.size(), key);
  for (const Bytes part : parts) state.update(part);
  state.finish(out);
  return out;
}

Hash hmac(Bytes key, Parts parts) {
  std::array<std::uint8_t, kBlake2sBlock> inner{}, outer{};
  if (key.size() > inner.size()) std::abort();  // keys here are hashes
  std::memcpy(inner.data(), key.data(), key.size());
  for (std::size_t i = 0; i < inner.size(); ++i) {
    outer[i] = inner[i] ^ 0x5c;
    inner[i] ^= 0x36;
  }
  Hash middle;
  Blake2s state(middle.size());
  state.update(inner);
  for (const Bytes part : parts) state.update(part);
  state.finish(middle);
  const Hash out = hash({outer, middle});
  wipe(inner);
  wipe(outer);
  return out;
}

bool aead_seal(const Hash& key, std::uint64_t counter, Bytes ad, Bytes plain, MutableBytes sealed) {
  return seal(key, nonce_of(counter), ad, plain, sealed);
}

bool aead_open(const Hash& key, std::uint64_t counter, Bytes ad, Bytes sealed, MutableBytes plain) {
  return open(key, nonce_of(counter), ad, sealed, plain);
}

Hash hchacha20(const Hash& key, const std::array<std::uint8_t, 16>& nonce) {
  // A key-stream block is the permuted state plus the initial one; OpenSSL takes words 12 to 15 as its 16-byte "IV", so
  // subtracting what is known (the constants and the nonce) leaves the permuted words that HChaCha20 gives out.
  std::array<std::uint8_t, 64> block{};
  EVP_CIPHER_CTX* context = contexts().cipher;
  int length = 0;
  if (EVP_EncryptInit_ex2(context, algorithms().chacha20, key.data(), nonce.data(), nullptr) != 1 ||
      EVP_EncryptUpdate(context, block.data(), &length, block.data(), static_cast<int>(block.size())) != 1)
    std::abort();
  constexpr std::array<std::uint32_t, 4> kConstants{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  Hash out;
  for (std::size_t i = 0; i < 4; ++i) {
    store_le(out.data() + 4 * i, load_le<std::uint32_t>(block.data() + 4 * i) - kConstants[i]);
    store_le(out.data() + 16 + 4 * i,
             load_le<std::uint32_t>(block.data() + 48 + 4 * i) - load_le<std::uint32_t>(nonce.data() + 4 * i));
  }
  wipe(block);
  return out;
}

bool xaead_seal(const Hash& key, const XNonce& nonce, Bytes ad, Bytes plain, MutableBytes sealed) {
  return seal(hchacha20(key, xnonce_head(nonce)), xnonce_rest(nonce), ad, plain, sealed);
}

bool xaead_open(const Hash& key, const XNonce& nonce, Bytes ad, Bytes sealed, MutableBytes plain) {
  return open(hchacha20(key, xnonce_head(nonce)), xnonce_rest(nonce), ad, sealed, plain);
}

bool equal_constant_time(Bytes a, Bytes b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void DhKey::Free::operator()(evp_pkey_st* key) const {
  EVP_PKEY_free(key);
}

void DhKey::FreeContext::operator()(evp_pkey_ctx_st* context) const {
  EVP_PKEY_CTX_free(context);
}

DhKey::DhKey(const PrivateKey& key)
    : key_(EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, nullptr, key.bytes.data(), key.bytes.size())) {
  std::size_t size = public_key_.bytes.size();
  if (key_) context_.reset(EVP_PKEY_CTX_new(key_.get(), nullptr));
  if (!context_ || EVP_PKEY_get_raw_public_key(key_.get(), public_key_.bytes.data(), &size) != 1 ||
      EVP_PKEY_derive_init(context_.get()) != 1)
    key_.reset();
}

bool DhKey::agree(const PublicKey& other, Hash& shared) const {
  if (!key_) return false;
  EVP_PKEY* peer = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, other.bytes.data(), other.bytes.size());
  std::size_t size = shared.size();
  const bool ok = peer != nullptr && EVP_PKEY_derive_set_peer_ex(context_.get(), peer, 0) == 1 &&
                  EVP_PKEY_derive(context_.get(), shared.data(), &size) == 1 && size == shared.size();
  EVP_PKEY_free(peer);
  return ok;
}

}  // namespace penstock::wireguard
