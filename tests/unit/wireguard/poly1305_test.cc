// The scalar Poly1305 of the AVX2 code by itself: here keys and blocks can be chosen, so that the edges of the modulus
// and of the carries are really met. Values after RFC 8439 §2.5 and appendix A.3, and against OpenSSL.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/unit/wireguard/aead_reference.h"

#if defined(__x86_64__)
#define PENSTOCK_INLINE inline
#include "dataplane/core/wireguard/poly1305_scalar.h"

namespace penstock::wireguard {
namespace {

using Octets = std::vector<std::uint8_t>;

// `message`: whole blocks.
Octets tag_of(const Octets& key, const Octets& message) {
  Poly poly;
  poly_init(poly, key.data());
  for (std::size_t at = 0; at < message.size(); at += 16) poly_block(poly, message.data() + at);
  Octets tag(16);
  poly_finish(poly, tag.data());
  return tag;
}

Octets from_hex(const std::string& text) {
  Octets out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return out;
}

Octets key_of(const std::string& r, const std::string& s) {
  Octets key = from_hex(r);
  const Octets second = from_hex(s);
  key.insert(key.end(), second.begin(), second.end());
  return key;
}

class Poly1305 : public testing::Test {
 protected:
  void SetUp() override {
    if (!__builtin_cpu_supports("bmi2")) GTEST_SKIP() << "this machine has no BMI2";
  }
};

struct Vector {
  const char* what;
  const char* r;
  const char* s;
  const char* message;
  const char* tag;
};

const std::string kZero(32, '0');
const std::string kOnes(32, 'f');

TEST_F(Poly1305, Vectors) {
  // RFC 8439 appendix A.3, those of whole blocks: 1, 7 to 11.
  const std::string two = "02" + std::string(30, '0');
  const Vector vectors[] = {
      {"1: zeroes", kZero.c_str(), kZero.c_str(), "00000000000000000000000000000000",
       "00000000000000000000000000000000"},
      {"7: 2^130 - 5 must be reduced", two.c_str(), kZero.c_str(), "ffffffffffffffffffffffffffffffff",
       "03000000000000000000000000000000"},
      {"8: the final addition wraps", two.c_str(), kOnes.c_str(), "02000000000000000000000000000000",
       "03000000000000000000000000000000"},
      {"9: 2^130 - 6 stays", "01000000000000000000000000000000", kZero.c_str(),
       "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff11000000000000000000000000000000",
       "05000000000000000000000000000000"},
      {"10: 2^130 - 5 becomes zero", "01000000000000000000000000000000", kZero.c_str(),
       "fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe01010101010101010101010101010101",
       "00000000000000000000000000000000"},
      {"11: 2^130 - 6", two.c_str(), kZero.c_str(), "fdffffffffffffffffffffffffffffff",
       "faffffffffffffffffffffffffffffff"},
  };
  for (const Vector& one : vectors)
    EXPECT_EQ(tag_of(key_of(one.r, one.s), from_hex(one.message)), from_hex(one.tag)) << one.what;
}

// Every r with extreme limbs times blocks with extreme limbs, several blocks deep.
TEST_F(Poly1305, ExtremeKeysAndBlocks) {
  const std::uint64_t edges[] = {0, 1, 2, 3, 4, 5, 0xfffffffffffffffaULL, 0xfffffffffffffffbULL, ~0ULL - 1, ~0ULL,
                                 0x0ffffffc0fffffffULL, 0x0ffffffc0ffffffcULL, 1ULL << 63};
  std::mt19937_64 random(7);
  for (int round = 0; round < 60000; ++round) {
    const auto word = [&] { return random() % 4 == 0 ? random() : edges[random() % std::size(edges)]; };
    Octets key(32), message(16 * (random() % 9));
    for (std::size_t at = 0; at < key.size(); at += 8) {
      const std::uint64_t value = word();
      std::memcpy(&key[at], &value, 8);
    }
    for (std::size_t at = 0; at < message.size(); at += 8) {
      const std::uint64_t value = word();
      std::memcpy(&message[at], &value, 8);
    }
    ASSERT_EQ(tag_of(key, message), reference_poly1305(key.data(), message)) << "round " << round;
  }
}

}  // namespace
}  // namespace penstock::wireguard
#endif
