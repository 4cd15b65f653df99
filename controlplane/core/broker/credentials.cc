#include "controlplane/core/broker/credentials.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <algorithm>

namespace penstock::broker {
namespace {

const unsigned char* octets(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

}  // namespace

Sha256 sha256(std::string_view text) {
  Sha256 out{};
  SHA256(octets(text), text.size(), out.data());
  return out;
}

bool same_digest(const Sha256& a, const Sha256& b) {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Key preshared_key(std::string_view portal_secret, const Key& client, const Key& gateway) {
  std::array<unsigned char, 64> pair{};
  std::copy(client.begin(), client.end(), pair.begin());
  std::copy(gateway.begin(), gateway.end(), pair.begin() + 32);
  Key out{};
  unsigned length = 0;
  HMAC(EVP_sha256(), portal_secret.data(), static_cast<int>(portal_secret.size()), pair.data(), pair.size(), out.data(),
       &length);
  return out;
}

RelayCredential relay_credential(std::string_view shared_secret, std::string_view client, WallTime expires) {
  RelayCredential out;
  out.username = std::to_string(expires.seconds) + ":" + std::string{client};
  out.expires = {expires.seconds, 0};
  std::array<unsigned char, 20> digest{};
  unsigned length = 0;
  HMAC(EVP_sha1(), shared_secret.data(), static_cast<int>(shared_secret.size()), octets(out.username),
       out.username.size(), digest.data(), &length);
  out.password = base64({reinterpret_cast<const char*>(digest.data()), digest.size()});
  return out;
}

}  // namespace penstock::broker
