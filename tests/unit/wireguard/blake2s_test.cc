// Own BLAKE2s, one at a time and in lanes, against OpenSSL; and whose is used.
#include "dataplane/core/wireguard/blake2s.h"

#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "dataplane/core/wireguard/blake2s_batch.h"
#include "dataplane/core/wireguard/blake2s_lanes.h"
#include "dataplane/core/wireguard/crypto.h"

namespace penstock::wireguard {
namespace {

using Octets = std::vector<std::uint8_t>;

Octets openssl_plain(const Octets& message) {
  Octets out(32);
  unsigned size = 0;
  EXPECT_EQ(EVP_Digest(message.data(), message.size(), out.data(), &size, EVP_blake2s256(), nullptr), 1);
  return out;
}

Octets openssl_keyed(const Octets& key, const Octets& message, std::size_t size) {
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
  // Messages of one length with keys, and what OpenSSL makes of them.
  struct Batch {
    std::vector<Octets> messages, keys;
    std::vector<const std::uint8_t*> at, key_at;
    Hash common;
    std::vector<Octets> expected_common, expected_each;
  };
  Batch make_batch(std::size_t count, std::size_t length) {
    Batch batch;
    for (auto& byte : batch.common) byte = static_cast<std::uint8_t>(random_());
    for (std::size_t i = 0; i < count; ++i) {
      batch.messages.push_back(octets(length));
      batch.keys.push_back(octets(kMacSize));
      batch.expected_common.push_back(
          openssl_keyed(Octets(batch.common.begin(), batch.common.end()), batch.messages.back(), kMacSize));
      batch.expected_each.push_back(openssl_keyed(batch.keys.back(), batch.messages.back(), kMacSize));
    }
    for (std::size_t i = 0; i < count; ++i) {
      batch.at.push_back(batch.messages[i].data());
      batch.key_at.push_back(batch.keys[i].data());
    }
    return batch;
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
  for (std::size_t size = 0; size <= 9000; size += size < 600 ? 1 : 1 + random_() % 40) {
    const Octets message = octets(size);
    const Octets key = octets(1 + size % 32);
    const std::size_t cut = size == 0 ? 0 : random_() % (size + 1);
    Octets out(32), mac(1 + size % 32);
    Blake2s plain(out.size());
    plain.update(Bytes{message}.first(cut));
    plain.update(Bytes{message}.subspan(cut));
    plain.finish(out);
    ASSERT_EQ(out, openssl_plain(message)) << size;
    Blake2s keyed(mac.size(), key);
    keyed.update(Bytes{message}.first(cut));
    keyed.update(Bytes{message}.subspan(cut));
    keyed.finish(mac);
    ASSERT_EQ(mac, openssl_keyed(key, message, mac.size())) << size;
  }
}

// Batches of every size, whatever of them goes in lanes: the variant of this machine, its rest, and what is below.
TEST_F(Blake2sTest, BatchesOfEverySize) {
  for (std::size_t count = 1; count <= 40; ++count) {
    for (int round = 0; round < 8; ++round) {
      const std::size_t length = 1 + random_() % 200;
      const Batch batch = make_batch(count, length);
      std::vector<Mac> one_key(count), each(count);
      mac_batch(MacKey(batch.common), batch.at, length, one_key.data());
      mac_batch(std::span<const std::uint8_t* const>{batch.key_at}, batch.at, length, each.data());
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(Octets(one_key[i].begin(), one_key[i].end()), batch.expected_common[i]) << count << ' ' << length;
        ASSERT_EQ(Octets(each[i].begin(), each[i].end()), batch.expected_each[i]) << count << ' ' << length;
      }
    }
  }
}

// Every variant that this machine has instructions for, and every length around the edges of blocks and well beyond
// what WireGuard needs. The output says which ones could not be run here.
TEST_F(Blake2sTest, EveryVariantOfThisMachineAgreesWithOpenssl) {
  std::size_t used = 0, run = 0;
  for (const MacVariant& variant : mac_variants()) {
    std::printf("[  VARIANT ] %s: %s\n", variant.name,
                !variant.available          ? "NOT RUN, this machine lacks the instructions"
                : variant.function == nullptr ? "run, as the reference of the others"
                                              : "run");
    RecordProperty(variant.name, variant.available ? "run" : "not run");
    if (used == 0 && variant.available) used = variant.width;
    if (!variant.available || variant.function == nullptr) continue;
    ++run;
    for (std::size_t length = 1; length <= 700; ++length) {
      const Batch batch = make_batch(variant.width, length);
      std::uint8_t out[16][16];
      variant.function(MacKey(batch.common).chain().data(), nullptr, batch.at.data(), length, out);
      for (std::size_t i = 0; i < variant.width; ++i)
        ASSERT_EQ(Octets(out[i], out[i] + 16), batch.expected_common[i]) << variant.name << ' ' << length << ' ' << i;
      variant.function(nullptr, batch.key_at.data(), batch.at.data(), length, out);
      for (std::size_t i = 0; i < variant.width; ++i)
        ASSERT_EQ(Octets(out[i], out[i] + 16), batch.expected_each[i]) << variant.name << ' ' << length << ' ' << i;
      std::uint8_t hashes[16][32];
      variant.hash(batch.at.data(), length, hashes);
      for (std::size_t i = 0; i < variant.width; ++i)
        ASSERT_EQ(Octets(hashes[i], hashes[i] + 32), openssl_plain(batch.messages[i])) << variant.name << ' ' << length;
    }
  }
  ASSERT_EQ(mac_variants().size(), 3u);
  EXPECT_EQ(mac_variants().back().function, nullptr);
  EXPECT_TRUE(mac_variants().back().available);
  EXPECT_EQ(run, mac_variants()[0].available ? 2u : mac_variants()[1].available ? 1u : 0u);
  EXPECT_EQ(used, mac_variants()[0].available ? 16u : mac_variants()[1].available ? 8u : 1u);
}

// Both widths from the same text, whatever this machine has: the compiler makes do with smaller vectors.
template <std::size_t Lanes, typename Make>
void check_text(Make&& make_batch) {
  for (const std::size_t length : {1, 60, 63, 64, 65, 116, 127, 128, 129, 132, 1000}) {
    const auto batch = make_batch(Lanes, length);
    std::uint8_t out[Lanes][16];
    Blake2sLanes<Lanes>::mac(nullptr, batch.key_at.data(), batch.at.data(), length, out);
    for (std::size_t i = 0; i < Lanes; ++i)
      ASSERT_EQ(Octets(out[i], out[i] + 16), batch.expected_each[i]) << Lanes << " lanes, " << i << ", length "
                                                                     << length;
    Blake2sLanes<Lanes>::mac(MacKey(batch.common).chain().data(), nullptr, batch.at.data(), length, out);
    for (std::size_t i = 0; i < Lanes; ++i)
      ASSERT_EQ(Octets(out[i], out[i] + 16), batch.expected_common[i]) << Lanes << " lanes, " << i << ", length "
                                                                     << length;
    std::uint8_t hashes[Lanes][32];
    Blake2sLanes<Lanes>::hash(batch.at.data(), length, hashes);
    for (std::size_t i = 0; i < Lanes; ++i)
      ASSERT_EQ(Octets(hashes[i], hashes[i] + 32), openssl_plain(batch.messages[i])) << Lanes << " lanes, " << i;
  }
}

TEST_F(Blake2sTest, TheTextOfTheLanesInBothWidths) {
  const auto make = [this](std::size_t count, std::size_t length) { return make_batch(count, length); };
  check_text<8>(make);
  check_text<16>(make);
}

// `blake2s: openssl` gives the same values by other code.
TEST_F(Blake2sTest, OpensslInPlaceOfOurs) {
  struct Restore {
    ~Restore() { set_own_blake2s(true); }
  } restore;
  for (int round = 0; round < 200; ++round) {
    const Octets key = octets(32), first = octets(random_() % 150), second = octets(1 + random_() % 150);
    Hash chain;
    std::copy(key.begin(), key.end(), chain.begin());
    const Batch batch = make_batch(1 + random_() % 20, second.size());
    std::vector<Mac> macs[2];
    std::vector<Octets> results[2];
    for (const bool own : {true, false}) {
      set_own_blake2s(own);
      ASSERT_EQ(own_blake2s(), own);
      const auto add = [&](const auto& value) { results[own].emplace_back(value.begin(), value.end()); };
      add(hash({first, second}));
      add(mac(key, {first, second}));
      add(hmac(key, {first, second}));
      add(hmac(key, {}));
      for (const Hash& out : kdf<3>(chain, first)) add(out);
      add(MacKey(chain).mac({first, second}));
      macs[own].resize(2 * batch.at.size());
      mac_batch(MacKey(chain), batch.at, second.size(), macs[own].data());
      mac_batch(std::span<const std::uint8_t* const>{batch.key_at}, batch.at, second.size(),
                macs[own].data() + batch.at.size());
    }
    ASSERT_EQ(results[0], results[1]);
    ASSERT_EQ(macs[0], macs[1]);
  }
}

// Nothing of a message may stay behind in memory.
TEST_F(Blake2sTest, AFinishedObjectIsEmpty) {
  Blake2s state(32, octets(32));
  state.update(octets(100));
  Octets out(32);
  state.finish(out);
  Octets left(sizeof state);
  std::memcpy(left.data(), static_cast<const void*>(&state), sizeof state);
  EXPECT_EQ(left, Octets(sizeof state));
}

}  // namespace
}  // namespace penstock::wireguard
