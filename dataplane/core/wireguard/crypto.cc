#include "dataplane/core/wireguard/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "dataplane/core/wireguard/blake2s.h"
#include "dataplane/core/wireguard/blake2s_openssl.h"

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
  EVP_PKEY_CTX* maker = required(EVP_PKEY_CTX_new_from_name(nullptr, "X25519", nullptr));
  EVP_PKEY* peer = nullptr;  // the public key of whoever is agreed with at the moment

  Contexts() {
    constexpr std::array<std::uint8_t, kKeySize> any{9};
    peer = required(EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, any.data(), any.size()));
    if (EVP_PKEY_fromdata_init(maker) != 1) std::abort();
  }
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;
  ~Contexts() {
    EVP_CIPHER_CTX_free(cipher);
    EVP_PKEY_CTX_free(maker);
    EVP_PKEY_free(peer);
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

// RFC 2104. Keys here are hashes, never longer than a block.
struct HmacPads {
  std::array<std::uint8_t, kBlake2sBlock> inner{}, outer{};

  explicit HmacPads(Bytes key) {
    if (key.size() > inner.size()) std::abort();
    std::memcpy(inner.data(), key.data(), key.size());
    for (std::size_t i = 0; i < inner.size(); ++i) {
      outer[i] = inner[i] ^ 0x5c;
      inner[i] ^= 0x36;
    }
  }
  ~HmacPads() {
    wipe(inner);
    wipe(outer);
  }
  HmacPads(const HmacPads&) = delete;
  HmacPads& operator=(const HmacPads&) = delete;
};

// HMAC of several messages under one key: the two blocks that depend on the key alone are hashed once.
class Expander {
 public:
  explicit Expander(const Hash& key) {
    const HmacPads pads(key);
    inner_ = Blake2s::chain_after(pads.inner);
    outer_ = Blake2s::chain_after(pads.outer);
  }
  // Of a message in two parts that is not empty.
  void hmac(Bytes first, Bytes second, Hash& out) const {
    Blake2s state = Blake2s::resumed(inner_, out.size());
    state.update(first);
    state.update(second);
    state.finish(out);
    state = Blake2s::resumed(outer_, out.size());
    state.update(out);
    state.finish(out);
  }

 private:
  Blake2s::Chain inner_, outer_;
};

std::atomic<bool> own_hashing{true};

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

void set_own_blake2s(bool own) {
  own_hashing.store(own, std::memory_order_relaxed);
}
bool own_blake2s() {
  return own_hashing.load(std::memory_order_relaxed);
}

Hash hash(Parts parts) {
  if (!own_blake2s()) return openssl_hash(parts);
  Hash out;
  Blake2s state(out.size());
  for (const Bytes part : parts) state.update(part);
  state.finish(out);
  return out;
}

Mac mac(Bytes key, Parts parts) {
  if (!own_blake2s()) return openssl_mac(key, parts);
  Mac out;
  Blake2s state(out.size(), key);
  for (const Bytes part : parts) state.update(part);
  state.finish(out);
  return out;
}

Hash hmac(Bytes key, Parts parts) {
  if (!own_blake2s()) return openssl_hmac(key, parts);
  const HmacPads pads(key);
  Hash middle;
  Blake2s state(middle.size());
  state.update(pads.inner);
  for (const Bytes part : parts) state.update(part);
  state.finish(middle);
  return hash({pads.outer, middle});
}

void kdf(const Hash& key, Bytes input, std::span<Hash> out) {
  Hash secret = hmac(key, {input});
  const Expander expander(secret);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::array<std::uint8_t, 1> number{static_cast<std::uint8_t>(i + 1)};
    const Bytes before = i == 0 ? Bytes{} : Bytes{out[i - 1]};
    if (own_blake2s()) {
      expander.hmac(before, number, out[i]);
    } else {
      out[i] = openssl_hmac(secret, {before, number});
    }
  }
  wipe(secret);
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

// Told the private key alone, the library would compute the public key by its multiplication of the base point, which
// takes longer than one by a point; so it is told some public key, and ours is the product with the base point.
DhKey::DhKey(const PrivateKey& key) {
  std::array<std::uint8_t, kKeySize> secret = key.bytes;
  std::array<std::uint8_t, kKeySize> base_point{9};
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, secret.data(), secret.size()),
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, base_point.data(), base_point.size()),
      OSSL_PARAM_construct_end()};
  EVP_PKEY* made = nullptr;
  const int ok = EVP_PKEY_fromdata(contexts().maker, &made, EVP_PKEY_KEYPAIR, const_cast<OSSL_PARAM*>(parameters));
  wipe(secret);
  key_.reset(made);
  if (ok != 1) key_.reset();
  if (key_) context_.reset(EVP_PKEY_CTX_new(key_.get(), nullptr));
  if (!context_ || EVP_PKEY_derive_init(context_.get()) != 1 || !agree(PublicKey{base_point}, public_key_.bytes))
    key_.reset();
}

bool DhKey::agree(const PublicKey& other, Hash& shared) const {
  if (!key_) return false;
  EVP_PKEY* const peer = contexts().peer;
  std::size_t size = shared.size();
  return EVP_PKEY_set1_encoded_public_key(peer, other.bytes.data(), other.bytes.size()) == 1 &&
         EVP_PKEY_derive_set_peer_ex(context_.get(), peer, 0) == 1 &&
         EVP_PKEY_derive(context_.get(), shared.data(), &size) == 1 && size == shared.size();
}

}  // namespace penstock::wireguard
