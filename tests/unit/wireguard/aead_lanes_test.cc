// The code that encrypts across packets, against OpenSSL packet by packet.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/aead_backends.h"
#include "dataplane/core/wireguard/chacha20_poly1305_x16.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kSlack = 32;  // behind the tag: must stay untouched

struct Text {
  std::array<std::uint8_t, 32> key;
  std::uint64_t counter;
  std::vector<std::uint8_t> plain;   // payload
  std::vector<std::uint8_t> buffer;  // payload, tag, slack
};

std::vector<std::uint8_t> openssl_seal(const Text& text) {
  std::vector<std::uint8_t> out(text.plain.size() + kAeadTagSize);
  std::uint8_t nonce[12] = {};
  std::memcpy(nonce + 4, &text.counter, 8);
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  int length = 0;
  EVP_EncryptInit_ex(context, EVP_chacha20_poly1305(), nullptr, text.key.data(), nonce);
  if (!text.plain.empty())
    EVP_EncryptUpdate(context, out.data(), &length, text.plain.data(), static_cast<int>(text.plain.size()));
  EVP_EncryptFinal_ex(context, out.data() + length, &length);
  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kAeadTagSize, out.data() + text.plain.size());
  EVP_CIPHER_CTX_free(context);
  return out;
}

class Lanes : public testing::Test {
 protected:
  void SetUp() override { lanes_ = make_lanes_context(); }

  Text text(std::size_t length) {
    Text made;
    for (auto& byte : made.key) byte = static_cast<std::uint8_t>(random_());
    made.counter = random_();
    made.plain.resize(length);
    for (auto& byte : made.plain) byte = static_cast<std::uint8_t>(random_());
    made.buffer = made.plain;
    made.buffer.resize(length + kAeadTagSize + kSlack, 0x5a);
    return made;
  }

  static std::vector<AeadJob> jobs(std::vector<Text>& texts) {
    std::vector<AeadJob> out;
    for (auto& t : texts)
      out.push_back({t.key.data(), t.counter, t.buffer.data(), static_cast<std::uint32_t>(t.plain.size()), false});
    return out;
  }

  // Seals all, compares with OpenSSL, spoils some, opens, compares again.
  void round_trip(const std::vector<std::size_t>& lengths) {
    std::vector<Text> texts;
    for (const std::size_t length : lengths) texts.push_back(text(length));
    auto sealing = jobs(texts);
    lanes_->seal(sealing);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto expected = openssl_seal(texts[i]);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), texts[i].buffer.begin()))
          << "lane " << i << " length " << lengths[i];
      ASSERT_TRUE(std::all_of(texts[i].buffer.end() - kSlack, texts[i].buffer.end(), [](auto b) { return b == 0x5a; }));
    }
    std::vector<bool> spoiled(texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      spoiled[i] = random_() % 4 == 0;
      if (spoiled[i])
        texts[i].buffer[random_() % (lengths[i] + kAeadTagSize)] ^= static_cast<std::uint8_t>(1U << (random_() % 8));
    }
    auto opening = jobs(texts);
    lanes_->open(opening);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      ASSERT_EQ(opening[i].ok, !spoiled[i]) << "lane " << i << " length " << lengths[i];
      if (!spoiled[i]) {
        ASSERT_TRUE(std::equal(texts[i].plain.begin(), texts[i].plain.end(), texts[i].buffer.begin()));
      }
    }
  }

  std::unique_ptr<AeadContext> lanes_;
  std::mt19937_64 random_{20250101};
};

TEST_F(Lanes, ExistExactlyWhereTheProcessorHasThem) {
  EXPECT_EQ(lanes_ != nullptr, chacha20_poly1305_x16_supported());
}

TEST_F(Lanes, EveryLengthTo9000InEveryLane) {
  if (!lanes_) return;
  for (std::size_t length = 0; length <= 9000; length += length < 1600 ? 1 : 37)
    round_trip(std::vector<std::size_t>(16, length));
}

TEST_F(Lanes, MixedLengthsAndCounts) {
  if (!lanes_) return;
  for (int round = 0; round < 1500; ++round) {
    std::vector<std::size_t> lengths(1 + random_() % 70);
    const std::size_t limit = std::array<std::size_t, 4>{40, 300, 1500, 9001}[random_() % 4];
    for (auto& length : lengths) length = random_() % limit;
    round_trip(lengths);
  }
}

// RFC 8439 §2.8.2 has additional data; the cases without it are the edges of Poly1305 that implementations get wrong:
// accumulators near 2^130 - 5 need the final subtraction. All-ones text under keys that differ by lane reaches them.
TEST_F(Lanes, ExtremeTexts) {
  if (!lanes_) return;
  for (const std::uint8_t fill : std::array<std::uint8_t, 3>{0x00, 0xff, 0x80}) {
    std::vector<Text> texts;
    for (std::size_t lane = 0; lane < 16; ++lane) {
      Text t = text(64 * lane + lane);
      std::fill(t.plain.begin(), t.plain.end(), fill);
      t.counter = lane % 2 ? ~std::uint64_t{0} : 0;
      t.key.fill(lane < 8 ? fill : static_cast<std::uint8_t>(~fill));
      std::copy(t.plain.begin(), t.plain.end(), t.buffer.begin());
      texts.push_back(t);
    }
    auto sealing = jobs(texts);
    lanes_->seal(sealing);
    for (const auto& t : texts) {
      const auto expected = openssl_seal(t);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), t.buffer.begin()));
    }
  }
}

}  // namespace
}  // namespace penstock::wireguard
