#include "tests/unit/wireguard/aead_reference.h"

#include <openssl/evp.h>

#include <cstdlib>
#include <cstring>

namespace penstock::wireguard {

std::vector<std::uint8_t> reference_seal(const std::uint8_t* key, std::uint64_t counter,
                                         const std::vector<std::uint8_t>& plain) {
  std::vector<std::uint8_t> out(plain.size() + 16);
  std::uint8_t nonce[12] = {};
  std::memcpy(nonce + 4, &counter, 8);
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  int length = 0;
  bool ok = EVP_EncryptInit_ex(context, EVP_chacha20_poly1305(), nullptr, key, nonce) == 1;
  if (!plain.empty())
    ok = ok && EVP_EncryptUpdate(context, out.data(), &length, plain.data(), static_cast<int>(plain.size())) == 1;
  ok = ok && EVP_EncryptFinal_ex(context, out.data() + length, &length) == 1 &&
       EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, out.data() + plain.size()) == 1;
  EVP_CIPHER_CTX_free(context);
  if (!ok) std::abort();
  return out;
}

std::vector<std::uint8_t> reference_poly1305(const std::uint8_t* key, const std::vector<std::uint8_t>& message) {
  std::vector<std::uint8_t> tag(16);
  std::size_t size = tag.size();
  EVP_MAC* algorithm = EVP_MAC_fetch(nullptr, "POLY1305", nullptr);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(algorithm);
  const bool ok = EVP_MAC_init(context, key, 32, nullptr) == 1 &&
                  EVP_MAC_update(context, message.data(), message.size()) == 1 &&
                  EVP_MAC_final(context, tag.data(), &size, tag.size()) == 1;
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(algorithm);
  if (!ok) std::abort();
  return tag;
}

}  // namespace penstock::wireguard
