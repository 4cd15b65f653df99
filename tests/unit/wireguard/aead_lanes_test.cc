// The code that encrypts across packets, against OpenSSL packet by packet: all lengths, all mixes, every tag bit.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/aead_backends.h"
#include "dataplane/core/wireguard/chacha20_poly1305_x16.h"
#include "dataplane/core/wireguard/chacha20_poly1305_x8.h"
#include "tests/unit/wireguard/aead_reference.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kSlack = 32;  // behind the tag: must stay untouched
constexpr std::uint8_t kSlackByte = 0x5a;

struct Text {
  std::array<std::uint8_t, 32> key;
  std::uint64_t counter;
  std::vector<std::uint8_t> plain;   // payload
  std::vector<std::uint8_t> buffer;  // payload, tag, slack
};

std::vector<AeadJob> jobs_of(std::vector<Text>& texts) {
  std::vector<AeadJob> out;
  for (auto& t : texts)
    out.push_back({t.key.data(), t.counter, t.buffer.data(), static_cast<std::uint32_t>(t.plain.size()), false});
  return out;
}

class Lanes : public testing::Test {
 protected:
  void SetUp() override {
    lanes_ = make_lanes_context();
    if (!lanes_) GTEST_SKIP() << "this machine has neither AVX-512 nor AVX2";
  }

  Text text(std::size_t length) {
    Text made;
    for (auto& byte : made.key) byte = static_cast<std::uint8_t>(random_());
    made.counter = random_();
    made.plain.resize(length);
    std::size_t i = 0;
    for (; i + 8 <= length; i += 8) {
      const std::uint64_t word = random_();
      std::memcpy(&made.plain[i], &word, 8);
    }
    for (; i < length; ++i) made.plain[i] = static_cast<std::uint8_t>(random_());
    made.buffer = made.plain;
    made.buffer.resize(length + kAeadTagSize + kSlack, kSlackByte);
    return made;
  }

  // Seals all and compares with OpenSSL.
  void seal_and_compare(std::vector<Text>& texts) {
    auto sealing = jobs_of(texts);
    lanes_->seal(sealing);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto expected = reference_seal(texts[i].key.data(), texts[i].counter, texts[i].plain);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), texts[i].buffer.begin()))
          << "job " << i << " of " << texts.size() << ", length " << texts[i].plain.size();
      ASSERT_TRUE(sealing[i].ok);
      ASSERT_EQ(std::count(texts[i].buffer.end() - kSlack, texts[i].buffer.end(), kSlackByte), kSlack);
    }
  }

  // The same, then spoils some, opens, compares again.
  void round_trip(const std::vector<std::size_t>& lengths) {
    std::vector<Text> texts;
    for (const std::size_t length : lengths) texts.push_back(text(length));
    ASSERT_NO_FATAL_FAILURE(seal_and_compare(texts));
    std::vector<bool> spoiled(texts.size());
    for (std::size_t i = 0; i < texts.size(); ++i) {
      spoiled[i] = random_() % 4 == 0;
      if (spoiled[i])
        texts[i].buffer[random_() % (lengths[i] + kAeadTagSize)] ^= static_cast<std::uint8_t>(1U << (random_() % 8));
    }
    auto opening = jobs_of(texts);
    lanes_->open(opening);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      ASSERT_EQ(opening[i].ok, !spoiled[i]) << "job " << i << " length " << lengths[i];
      if (!spoiled[i]) {
        ASSERT_TRUE(std::equal(texts[i].plain.begin(), texts[i].plain.end(), texts[i].buffer.begin()));
      }
    }
  }

  std::unique_ptr<AeadContext> lanes_;
  std::mt19937_64 random_{20250101};
};

TEST(LanesChoice, ExistExactlyWhereTheProcessorHasThem) {
  EXPECT_EQ(make_lanes_context() != nullptr, chacha20_poly1305_x16_supported() || chacha20_poly1305_x8_supported());
}

TEST_F(Lanes, EveryLengthTo9000InEveryLane) {
  // Equal lengths up to where every branch on the length has been taken many times, then lengths that rise by one from
  // lane to lane.
  for (std::size_t length = 0; length < 700; ++length)
    ASSERT_NO_FATAL_FAILURE(round_trip(std::vector<std::size_t>(16, length)));
  for (std::size_t length = 700; length <= 9000; length += 16) {
    std::vector<std::size_t> lengths(16);
    for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = length + i;
    std::rotate(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(length / 16 % 16), lengths.end());
    ASSERT_NO_FATAL_FAILURE(round_trip(lengths));
  }
}

TEST_F(Lanes, MixedLengthsAndCounts) {
  for (int round = 0; round < 1500; ++round) {
    std::vector<std::size_t> lengths(1 + random_() % 70);
    const std::size_t limit = std::array<std::size_t, 5>{40, 129, 300, 1500, 9001}[random_() % 5];
    for (auto& length : lengths) length = random_() % limit;
    ASSERT_NO_FATAL_FAILURE(round_trip(lengths));
  }
}

// One long packet among short ones in every place, and everything that fits a burst of one to nine.
TEST_F(Lanes, LongAmongShort) {
  for (std::size_t count = 1; count <= 20; ++count) {
    for (std::size_t place = 0; place < count; ++place) {
      std::vector<std::size_t> lengths(count, 16 * (place % 3));
      lengths[place] = 8900;
      ASSERT_NO_FATAL_FAILURE(round_trip(lengths));
    }
  }
}

// Every bit of the tag counts, whichever packet of the burst has it; and a spoiled one does not disturb the others.
TEST_F(Lanes, EveryTagBit) {
  std::vector<Text> sealed;
  for (std::size_t i = 0; i < 17; ++i) sealed.push_back(text(i * 13 % 97));
  ASSERT_NO_FATAL_FAILURE(seal_and_compare(sealed));
  for (std::size_t bit = 0; bit < 8 * kAeadTagSize; ++bit) {
    std::vector<Text> texts = sealed;
    const std::size_t victim = bit % texts.size();
    texts[victim].buffer[texts[victim].plain.size() + bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
    auto opening = jobs_of(texts);
    lanes_->open(opening);
    for (std::size_t i = 0; i < texts.size(); ++i) ASSERT_EQ(opening[i].ok, i != victim) << "bit " << bit;
  }
}

// Edges of ChaCha20's nonce (counters at their ends) and of Poly1305 (texts of all zeroes, all ones).
TEST_F(Lanes, ExtremeTexts) {
  for (const std::uint8_t fill : std::array<std::uint8_t, 3>{0x00, 0xff, 0x80}) {
    std::vector<Text> texts;
    for (std::size_t lane = 0; lane < 40; ++lane) {
      Text t = text(64 * (lane % 16) + lane);
      std::fill(t.plain.begin(), t.plain.end(), fill);
      t.counter = lane % 2 ? ~std::uint64_t{0} : 0;
      t.key.fill(lane % 16 < 8 ? fill : static_cast<std::uint8_t>(~fill));
      std::copy(t.plain.begin(), t.plain.end(), t.buffer.begin());
      texts.push_back(t);
    }
    ASSERT_NO_FATAL_FAILURE(seal_and_compare(texts));
  }
}

// What Poly1305 sees can be chosen freely by choosing the plaintext as wanted text XOR key stream. Blocks of all ones
// and accumulators just below and above 2^130 - 5 are where implementations forget the last subtraction or a carry.
TEST_F(Lanes, ChosenCiphertexts) {
  std::vector<Text> texts;
  for (std::size_t i = 0; i < 64; ++i) {
    Text t = text(16 * (1 + i % 40));
    // With this the ciphertext is all ones from block `i % 5` on, and ends in 2^130 - 5 - small values.
    std::vector<std::uint8_t> wanted(t.plain.size(), 0xff);
    for (std::size_t at = 0; at + 16 <= wanted.size(); at += 16)
      if (at / 16 % 5 == i % 5) wanted[at] = static_cast<std::uint8_t>(0xfa + i % 6);
    const auto stream = reference_seal(t.key.data(), t.counter, std::vector<std::uint8_t>(t.plain.size()));
    for (std::size_t at = 0; at < wanted.size(); ++at)
      t.plain[at] = static_cast<std::uint8_t>(wanted[at] ^ stream[at]);
    std::copy(t.plain.begin(), t.plain.end(), t.buffer.begin());
    texts.push_back(t);
  }
  ASSERT_NO_FATAL_FAILURE(seal_and_compare(texts));
  for (const auto& t : texts) EXPECT_EQ(t.buffer[t.plain.size() - 1], 0xff);
}

// The kernels themselves, whatever make_lanes_context() would have given to others: every number of packets, in any
// order of lengths, nothing at all among them.
using Kernel = void (*)(const Lane*, std::size_t, bool, std::uint8_t (*)[16]);
class LaneKernels : public Lanes, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    const bool sixteen = GetParam();
    if (!(sixteen ? chacha20_poly1305_x16_supported() : chacha20_poly1305_x8_supported()))
      GTEST_SKIP() << "this machine has not these instructions";
    kernel_ = sixteen ? chacha20_poly1305_x16 : chacha20_poly1305_x8;
  }
  Kernel kernel_ = nullptr;
};

TEST_P(LaneKernels, EveryCountInAnyOrder) {
  for (std::size_t round = 0; round < 640; ++round) {
    const std::size_t count = 1 + round % kX16MaxPackets;
    const std::size_t limit = std::array<std::size_t, 4>{17, 130, 1500, 4000}[random_() % 4];
    std::vector<Text> texts;
    for (std::size_t i = 0; i < count; ++i) texts.push_back(text(random_() % 5 == 0 ? 0 : random_() % limit));
    for (const bool encrypt : {true, false}) {
      std::vector<Lane> lanes;
      for (auto& t : texts) {
        const auto length = static_cast<std::uint32_t>(t.plain.size());
        lanes.push_back({t.key.data(), t.counter, length == 0 ? nullptr : t.buffer.data(), length});
      }
      std::vector<std::array<std::uint8_t, 16>> tags(count);
      kernel_(lanes.data(), count, encrypt, reinterpret_cast<std::uint8_t(*)[16]>(tags.data()));
      for (std::size_t i = 0; i < count; ++i) {
        const Text& t = texts[i];
        const auto sealed = reference_seal(t.key.data(), t.counter, t.plain);
        ASSERT_TRUE(std::equal(tags[i].begin(), tags[i].end(), sealed.end() - kAeadTagSize)) << i << " of " << count;
        const std::uint8_t* const expected = encrypt ? sealed.data() : t.plain.data();
        ASSERT_TRUE(std::equal(expected, expected + t.plain.size(), t.buffer.begin())) << i << " of " << count;
        ASSERT_EQ(std::count(t.buffer.begin() + static_cast<std::ptrdiff_t>(t.plain.size()), t.buffer.end(), kSlackByte),
                  static_cast<std::ptrdiff_t>(kAeadTagSize + kSlack));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, LaneKernels, testing::Bool(), [](const auto& width) {
  return std::string(width.param ? "Sixteen" : "Eight");
});

}  // namespace
}  // namespace penstock::wireguard
