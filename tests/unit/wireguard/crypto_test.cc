// The primitives against published vectors.
#include "dataplane/core/wireguard/crypto.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dataplane/core/wireguard/handshake.h"

namespace penstock::wireguard {
namespace {

std::vector<std::uint8_t> hex(std::string_view text) {
  std::vector<std::uint8_t> out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<std::uint8_t>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16)));
  return out;
}

template <typename Array>
Array array_of(std::string_view text) {
  Array out{};
  const auto bytes = hex(text);
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}

std::vector<std::uint8_t> bytes_of(std::string_view text) {
  return {text.begin(), text.end()};
}

template <typename Range>
std::vector<std::uint8_t> vec(const Range& range) {
  return {range.begin(), range.end()};
}

TEST(Crypto, Blake2sOfAbc) {  // RFC 7693 appendix B
  EXPECT_EQ(vec(hash({bytes_of("a"), bytes_of("bc")})),
            hex("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"));
}

TEST(Crypto, X25519) {  // RFC 7748 section 5.2
  const DhKey scalar(PrivateKey{
      array_of<std::array<std::uint8_t, 32>>("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")});
  Hash shared;
  ASSERT_TRUE(scalar.agree(PublicKey{array_of<std::array<std::uint8_t, 32>>(
                               "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")},
                           shared));
  EXPECT_EQ(vec(shared), hex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"));
}

TEST(Crypto, X25519RefusesSmallOrder) {
  const DhKey key(PrivateKey{array_of<std::array<std::uint8_t, 32>>("01")});
  Hash shared;
  EXPECT_FALSE(key.agree(PublicKey{}, shared));
  PublicKey one{};
  one.bytes[0] = 1;
  EXPECT_FALSE(key.agree(one, shared));
}

TEST(Crypto, HChaCha20) {  // draft-irtf-cfrg-xchacha-03 section 2.2.1
  EXPECT_EQ(vec(hchacha20(array_of<Hash>("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
                          array_of<std::array<std::uint8_t, 16>>("000000090000004a0000000031415927"))),
            hex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"));
}

TEST(Crypto, XChaCha20Poly1305) {  // draft-irtf-cfrg-xchacha-03 appendix A.3.1
  const auto plain = bytes_of(
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be "
      "it.");
  const auto key = array_of<Hash>("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
  const auto nonce = array_of<XNonce>("404142434445464748494a4b4c4d4e4f5051525354555657");
  const auto ad = hex("50515253c0c1c2c3c4c5c6c7");
  std::vector<std::uint8_t> sealed(plain.size() + 16), opened(plain.size());
  ASSERT_TRUE(xaead_seal(key, nonce, ad, plain, sealed));
  EXPECT_EQ(std::vector<std::uint8_t>(sealed.end() - 16, sealed.end()), hex("c0875924c1c7987947deafd8780acf49"));
  EXPECT_EQ(std::vector<std::uint8_t>(sealed.begin(), sealed.begin() + 16), hex("bd6d179d3e83d43b9576579493c0e939"));
  ASSERT_TRUE(xaead_open(key, nonce, ad, sealed, opened));
  EXPECT_EQ(opened, plain);
  sealed[3] ^= 1;
  EXPECT_FALSE(xaead_open(key, nonce, ad, sealed, opened));
}

TEST(Crypto, HkdfIsHmacChained) {
  Hash key{};
  key[0] = 7;
  const std::vector<std::uint8_t> input{1, 2, 3};
  const auto out = kdf<3>(key, input);
  const Hash secret = hmac(key, {input});
  const std::vector<std::uint8_t> one{1};
  EXPECT_EQ(out[0], hmac(secret, {one}));
  EXPECT_EQ(out[0], kdf<1>(key, input)[0]);
  EXPECT_EQ(out[1], kdf<2>(key, input)[1]);
}

TEST(Keys, Base64BothWays) {
  Hash bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + 1);
  const PublicKey key{bytes};
  const std::string text = key.to_base64();
  ASSERT_EQ(text.size(), 44U);
  EXPECT_EQ(PublicKey::parse(text), key);
  EXPECT_EQ(PublicKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), PublicKey{});
  EXPECT_EQ(PublicKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB="), std::nullopt);  // bits beyond 32 bytes
  EXPECT_EQ(PublicKey::parse("AAAAAAAAAAAAAAAAAAAA AAAAAAAAAAAAAAAAAAAAAA="), std::nullopt);
  EXPECT_EQ(PublicKey::parse(""), std::nullopt);
  EXPECT_EQ(PublicKey::parse(text.substr(1)), std::nullopt);
}

TEST(Timestamps, GrowAndWhiten) {
  const Timestamp a = make_timestamp({100, 1}), b = make_timestamp({100, 999'999'999}), c = make_timestamp({101, 0});
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_EQ(make_timestamp({100, 2}), a);  // the clock is not given away finely
  EXPECT_LT(b, next_timestamp(b));
  Timestamp last = make_timestamp({100, 0});
  last[8] = 0x3b, last[9] = 0x9a, last[10] = 0xc9, last[11] = 0xff;  // 999 999 999 ns
  EXPECT_EQ(next_timestamp(last), c);
}

}  // namespace
}  // namespace penstock::wireguard
