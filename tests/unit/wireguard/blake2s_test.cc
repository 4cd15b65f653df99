// Own BLAKE2s, one at a time and in lanes, against OpenSSL.
#include "dataplane/core/wireguard/blake2s.h"

#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <random>
#include <vector>

#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/blake2s_lanes.h"

namespace penstock::wireguard {
namespace {

using Octets = std::vector<std::uint8_t>;

Octets openssl_hash(const Octets& message) {
  Octets out(32);
  unsigned size = 0;
  EXPECT_EQ(EVP_Digest(message.data(), message.size(), out.data(), &size, EVP_blake2s256(), nullptr), 1);
  return out;
}

Octets openssl_mac(const Octets& key, const Octets& message, std::size_t size) {
  Octets out(size);
  EVP_MAC* algorithm = EVP_MAC_fetch(nullptr, "BLAKE2SMAC", nullptr);
  EVP_MAC_CTX* context = EVP_MAC_CTX_new(algorithm);
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
  EXPECT_EQ(EVP_MAC_init(context, key.data(), key.size(), parameters), 1);
  EXPECT_EQ(EVP_MAC_update(context, message.data(), message.size()), 1);
  EXPECT_EQ(EVP_MAC_final(context, out.data(), &size, out.size()), 1);
  EVP_MAC_CTX_free(context);
  EVP_MAC_free(algorithm);
  return out;
}

class Blake2sTest : public testing::Test {
 protected:
  Octets octets(std::size_t size) {
    Octets out(size);
    for (auto& byte : out) byte = static_cast<std::uint8_t>(random_());
    return out;
  }
  std::mt19937_64 random_{11};
};

// RFC 7693 appendix B.
TEST_F(Blake2sTest, OfAbc) {
  const Octets expected{0x50, 0x8c, 0x5e, 0x8c, 0x32, 0x7c, 0x14, 0xe2, 0xe1, 0xa7, 0x2b, 0xa3, 0x4e, 0xeb, 0x45, 0x2f,
                        0x37, 0x45, 0x8b, 0x20, 0x9e, 0xd6, 0x3a, 0x29, 0x4d, 0x99, 0x9b, 0x4c, 0x86, 0x67, 0x59, 0x82};
  Octets out(32);
  Blake2s state(32);
  state.update(Octets{'a', 'b', 'c'});
  state.finish(out);
  EXPECT_EQ(out, expected);
}

TEST_F(Blake2sTest, EveryLengthInEveryTwoParts) {
  for (std::size_t size = 0; size < 300; ++size) {
    const Octets message = octets(size);
    const Octets key = octets(1 + size % 32);
    const std::size_t cut = size == 0 ? 0 : random_() % (size + 1);
    Octets out(32), mac(1 + size % 32);
    Blake2s plain(out.size());
    plain.update(Bytes{message}.first(cut));
    plain.update(Bytes{message}.subspan(cut));
    plain.finish(out);
    ASSERT_EQ(out, openssl_hash(message)) << size;
    Blake2s keyed(mac.size(), key);
    keyed.update(Bytes{message}.first(cut));
    keyed.update(Bytes{message}.subspan(cut));
    keyed.finish(mac);
    ASSERT_EQ(mac, openssl_mac(key, message, mac.size())) << size;
  }
}

TEST_F(Blake2sTest, BatchesOfAnySize) {
  for (int round = 0; round < 300; ++round) {
    const std::size_t length = 1 + random_() % 200;
    std::vector<Octets> messages(1 + random_() % 40), keys;
    std::vector<const std::uint8_t*> at, key_at;
    for (Octets& message : messages) {
      message = octets(length);
      keys.push_back(octets(kMacSize));
      at.push_back(message.data());
    }
    for (const Octets& key : keys) key_at.push_back(key.data());
    std::vector<Mac> one_key(messages.size()), each(messages.size());
    const Octets common = octets(32);
    mac_batch(mac_chain(common), at, length, one_key.data());
    mac_batch(std::span<const std::uint8_t* const>{key_at}, at, length, each.data());
    for (std::size_t i = 0; i < messages.size(); ++i) {
      ASSERT_EQ(Octets(one_key[i].begin(), one_key[i].end()), openssl_mac(common, messages[i], kMacSize));
      ASSERT_EQ(Octets(each[i].begin(), each[i].end()), openssl_mac(keys[i], messages[i], kMacSize));
    }
  }
}

// Both widths from the same text, whatever this machine has: the compiler makes do with smaller vectors.
template <std::size_t Lanes>
void check_lanes(std::mt19937_64& random) {
  for (const std::size_t length : {std::size_t{1}, std::size_t{60}, std::size_t{64}, std::size_t{116}, std::size_t{132}}) {
    Octets messages(Lanes * length), keys(Lanes * kMacSize);
    for (auto* bytes : {&messages, &keys})
      for (auto& byte : *bytes) byte = static_cast<std::uint8_t>(random());
    const std::uint8_t *at[Lanes], *key_at[Lanes];
    for (std::size_t i = 0; i < Lanes; ++i) {
      at[i] = messages.data() + i * length;
      key_at[i] = keys.data() + i * kMacSize;
    }
    std::uint8_t out[Lanes][16];
    Blake2sLanes<Lanes>::mac(nullptr, key_at, at, length, out);
    for (std::size_t i = 0; i < Lanes; ++i) {
      const Octets expected =
          openssl_mac(Octets(key_at[i], key_at[i] + kMacSize), Octets(at[i], at[i] + length), kMacSize);
      ASSERT_EQ(Octets(out[i], out[i] + 16), expected) << Lanes << " lanes, lane " << i << ", length " << length;
    }
  }
}

TEST_F(Blake2sTest, EightAndSixteenLanes) {
  check_lanes<8>(random_);
  check_lanes<16>(random_);
}

}  // namespace
}  // namespace penstock::wireguard
