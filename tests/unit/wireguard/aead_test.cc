// Bulk encryption: every backend against RFC 8439 and against an independent use of OpenSSL, all lengths, mixed bursts.
#include "dataplane/core/wireguard/aead.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dataplane/core/wireguard/crypto.h"
#include "tests/unit/wireguard/support.h"

namespace penstock::wireguard {
namespace {

constexpr std::size_t kMaxLength = 2100;

class Aead : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    context_ = make_aead_context(GetParam());
    ASSERT_NE(context_, nullptr) << GetParam();
    EXPECT_EQ(context_->name(), GetParam());
  }
  std::unique_ptr<AeadContext> context_;
};

struct Case {
  Hash key;
  std::uint64_t counter;
  std::vector<std::uint8_t> plain, expected, buffer;
};

std::vector<Case> cases_of(std::size_t first, std::size_t last) {
  SeededRandom random(first + 1);
  std::vector<Case> cases;
  for (std::size_t length = first; length < last; ++length) {
    Case one;
    random.fill(one.key);
    if (length % 3 == 1 && !cases.empty()) one.key = cases.back().key;  // neighbours of one session
    one.counter = length % 5 == 0 ? ~std::uint64_t{0} - length : random.next_u64();
    one.plain.resize(length);
    random.fill(one.plain);
    one.expected.resize(length + kAeadTagSize);
    EXPECT_TRUE(aead_seal(one.key, one.counter, {}, one.plain, one.expected));
    one.buffer = one.plain;
    one.buffer.resize(length + kAeadTagSize);
    cases.push_back(std::move(one));
  }
  return cases;
}

std::vector<AeadJob> jobs_of(std::vector<Case>& cases) {
  std::vector<AeadJob> jobs;
  for (Case& one : cases)
    jobs.push_back(
        {one.key.data(), one.counter, one.buffer.data(), static_cast<std::uint32_t>(one.plain.size()), false});
  return jobs;
}

TEST_P(Aead, AllLengthsInMixedBursts) {
  constexpr std::size_t kBurst = 101;  // more than any backend takes at once, and not a multiple
  for (std::size_t first = 0; first <= kMaxLength; first += kBurst) {
    auto cases = cases_of(first, std::min(first + kBurst, kMaxLength + 1));
    auto jobs = jobs_of(cases);
    context_->seal(jobs);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      ASSERT_EQ(cases[i].buffer, cases[i].expected) << "length " << cases[i].plain.size();
      ASSERT_TRUE(jobs[i].ok);
    }
    context_->open(jobs);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      ASSERT_TRUE(jobs[i].ok) << "length " << cases[i].plain.size();
      cases[i].buffer.resize(cases[i].plain.size());
      ASSERT_EQ(cases[i].buffer, cases[i].plain);
    }
  }
}

TEST_P(Aead, OnlyForgedJobsFail) {
  SeededRandom random(99);
  for (std::size_t round = 0; round < 60; ++round) {
    auto cases = cases_of(round * 7, round * 7 + 40);
    for (Case& one : cases) one.buffer = one.expected;
    std::vector<bool> forged;
    for (Case& one : cases) {
      forged.push_back(random.below(3) == 0);
      if (forged.back()) {
        const auto bit = random.below(static_cast<std::uint32_t>(one.buffer.size() * 8));
        one.buffer[bit / 8] = static_cast<std::uint8_t>(one.buffer[bit / 8] ^ (1U << (bit % 8)));
      }
    }
    auto jobs = jobs_of(cases);
    context_->open(jobs);
    for (std::size_t i = 0; i < jobs.size(); ++i) ASSERT_EQ(jobs[i].ok, !forged[i]) << "length " << jobs[i].length;
  }
}

TEST_P(Aead, NothingBesideTheBuffersIsWritten) {
  for (std::size_t length = 0; length < 300; ++length) {
    std::vector<std::uint8_t> buffer(length + kAeadTagSize + 128, 0xa5);
    const Hash key{};
    AeadJob job{key.data(), length, buffer.data() + 64, static_cast<std::uint32_t>(length), false};
    context_->seal({&job, 1});
    context_->open({&job, 1});
    ASSERT_TRUE(job.ok);
    for (std::size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(buffer[i], 0xa5);
      ASSERT_EQ(buffer[buffer.size() - 1 - i], 0xa5);
    }
  }
}

TEST_P(Aead, EmptyBurst) {
  context_->seal({});
  context_->open({});
}

// The AEAD vectors of RFC 8439 have additional data and nonces that WireGuard cannot form, so its cipher vectors serve
// here: appendix A.1 vector 2 is the first key-stream block that encrypts data under key and nonce zero.
TEST_P(Aead, ChaCha20KeystreamOfRfc8439) {
  static constexpr std::array<std::uint8_t, 64> kBlockOne{
      0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d, 0x08, 0x0d,
      0xcb, 0x0f, 0x29, 0xa0, 0x48, 0xe3, 0x65, 0x69, 0x12, 0xc6, 0x53, 0x3e, 0x32, 0xee, 0x7a, 0xed,
      0x29, 0xb7, 0x21, 0x76, 0x9c, 0xe6, 0x4e, 0x43, 0xd5, 0x71, 0x33, 0xb0, 0x74, 0xd8, 0x39, 0xd5,
      0x31, 0xed, 0x1f, 0x28, 0x51, 0x0a, 0xfb, 0x45, 0xac, 0xe1, 0x0a, 0x1f, 0x4b, 0x79, 0x4d, 0x6f};
  const Hash key{};
  std::vector<std::uint8_t> buffer(64 + kAeadTagSize);
  AeadJob job{key.data(), 0, buffer.data(), 64, false};
  context_->seal({&job, 1});
  EXPECT_TRUE(std::equal(kBlockOne.begin(), kBlockOne.end(), buffer.begin()));
}

std::vector<const char*> available() {
  std::vector<const char*> names;
  for (const char* name : {"openssl", "ipsec-mb", "lanes"})
    if (make_aead_context(name)) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Backends, Aead, ::testing::ValuesIn(available()), [](const auto& parameter) {
  std::string name = parameter.param;
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
});

TEST(AeadChoice, ByName) {
  EXPECT_NE(make_aead_context("auto"), nullptr);
  EXPECT_NE(make_aead_context("openssl"), nullptr);
  EXPECT_EQ(make_aead_context("rot13"), nullptr);
  EXPECT_EQ(make_aead_context(""), nullptr);
}

// The handshake's AEAD.
TEST(AeadWithData, AdditionalDataCounts) {
  Hash key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(0x80 + i);
  const std::vector<std::uint8_t> ad{1, 2, 3}, other{1, 2, 4}, plain{9, 8, 7, 6};
  std::vector<std::uint8_t> sealed(plain.size() + kAeadTagSize), opened(plain.size());
  ASSERT_TRUE(aead_seal(key, 5, ad, plain, sealed));
  EXPECT_FALSE(aead_open(key, 5, other, sealed, opened));
  EXPECT_FALSE(aead_open(key, 6, ad, sealed, opened));
  ASSERT_TRUE(aead_open(key, 5, ad, sealed, opened));
  EXPECT_EQ(opened, plain);
  EXPECT_FALSE(aead_open(key, 5, ad, Bytes{sealed}.first(3), opened));
}

}  // namespace
}  // namespace penstock::wireguard
