#include "dataplane/core/wireguard/keys.h"

#include <openssl/crypto.h>

#include "dataplane/core/wireguard/crypto.h"

namespace penstock::wireguard {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Without tables and branches on the secret: keys are read and printed through this.
int value_of(char c) {
  const int v = static_cast<unsigned char>(c);
  const auto in = [v](int first, int last) { return ((first - 1 - v) & (v - last - 1)) >> 8; };  // all ones or zero
  return -1 + (in('A', 'Z') & (v - 'A' + 1)) + (in('a', 'z') & (v - 'a' + 27)) + (in('0', '9') & (v - '0' + 53)) +
         (in('+', '+') & 63) + (in('/', '/') & 64);
}

}  // namespace

namespace detail {

std::optional<std::array<std::uint8_t, kKeySize>> parse_key(std::string_view base64) {
  if (base64.size() != 44 || base64[43] != '=') return std::nullopt;
  std::array<std::uint8_t, kKeySize> key{};
  std::uint32_t bits = 0;
  int bad = 0;
  for (std::size_t i = 0, out = 0; i < 43; ++i) {
    const int value = value_of(base64[i]);
    bad |= value >> 8;
    bits = bits << 6 | (static_cast<std::uint32_t>(value) & 63);
    if (i % 4 == 3 || i == 42) {
      if (i == 42) {
        bad |= static_cast<int>(bits & 3);  // 43 characters carry 258 bits: the last two must be zero
        key[out++] = static_cast<std::uint8_t>(bits >> 10);
        key[out++] = static_cast<std::uint8_t>(bits >> 2);
      } else {
        key[out++] = static_cast<std::uint8_t>(bits >> 16);
        key[out++] = static_cast<std::uint8_t>(bits >> 8);
        key[out++] = static_cast<std::uint8_t>(bits);
      }
      bits = 0;
    }
  }
  return bad == 0 ? std::optional(key) : std::nullopt;
}

std::string print_key(Bytes key) {
  std::string out;
  for (std::size_t i = 0; i < key.size(); i += 3) {
    const std::size_t have = key.size() - i < 3 ? key.size() - i : 3;
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 3; ++j) bits = bits << 8 | (j < have ? key[i + j] : 0U);
    for (std::size_t j = 0; j < 4; ++j) out += j <= have ? kAlphabet[(bits >> (18 - 6 * j)) & 63] : '=';
  }
  return out;
}

}  // namespace detail

std::optional<PublicKey> derive_public_key(const PrivateKey& key) {
  const DhKey dh(key);
  return dh.valid() ? std::optional(dh.public_key()) : std::nullopt;
}

void wipe(MutableBytes secret) {
  OPENSSL_cleanse(secret.data(), secret.size());
}

}  // namespace penstock::wireguard
