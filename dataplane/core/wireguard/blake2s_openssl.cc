#include "dataplane/core/wireguard/blake2s_openssl.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <cstdlib>

namespace penstock::wireguard {
namespace {

// As in crypto.cc: fetched once per process, contexts kept per thread, and no input can fail.
struct Algorithms {
  EVP_MD* hash = EVP_MD_fetch(nullptr, "BLAKE2S-256", nullptr);
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
  EVP_MAC* hmac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
};

const Algorithms& algorithms() {
  static const Algorithms* const fetched = new Algorithms;
  if (fetched->hash == nullptr || fetched->mac == nullptr || fetched->hmac == nullptr) std::abort();
  return *fetched;
}

struct Contexts {
  EVP_MD_CTX* hash = EVP_MD_CTX_new();
  EVP_MAC_CTX* mac = EVP_MAC_CTX_new(algorithms().mac);
  EVP_MAC_CTX* hmac = EVP_MAC_CTX_new(algorithms().hmac);

  Contexts() {
    if (hash == nullptr || mac == nullptr || hmac == nullptr) std::abort();
  }
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;
  ~Contexts() {
    EVP_MD_CTX_free(hash);
    EVP_MAC_CTX_free(mac);
    EVP_MAC_CTX_free(hmac);
  }
};

Contexts& contexts() {
  thread_local Contexts own;
  return own;
}

void run_mac(EVP_MAC_CTX* context, Bytes key, const OSSL_PARAM* params, Parts parts, MutableBytes out) {
  std::size_t size = out.size();
  bool ok = EVP_MAC_init(context, key.data(), key.size(), params) == 1;
  for (const Bytes part : parts) ok = ok && EVP_MAC_update(context, part.data(), part.size()) == 1;
  if (!ok || EVP_MAC_final(context, out.data(), &size, out.size()) != 1) std::abort();
}

}  // namespace

Hash openssl_hash(Parts parts) {
  Hash out;
  EVP_MD_CTX* context = contexts().hash;
  bool ok = EVP_DigestInit_ex2(context, algorithms().hash, nullptr) == 1;
  for (const Bytes part : parts) ok = ok && EVP_DigestUpdate(context, part.data(), part.size()) == 1;
  if (!ok || EVP_DigestFinal_ex(context, out.data(), nullptr) != 1) std::abort();
  return out;
}

Mac openssl_mac(Bytes key, Parts parts) {
  Mac out;
  std::size_t size = out.size();
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
  run_mac(contexts().mac, key, params, parts, out);
  return out;
}

Hash openssl_hmac(Bytes key, Parts parts) {
  Hash out;
  char digest[] = "BLAKE2S-256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                               OSSL_PARAM_construct_end()};
  run_mac(contexts().hmac, key, params, parts, out);
  return out;
}

}  // namespace penstock::wireguard
