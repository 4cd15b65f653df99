// Bursts of any shape through the lanes: what they seal is what OpenSSL seals, what they open is what was sealed, and a
// flipped bit is noticed in exactly the packet that has it.
//
// Input: per packet three bytes: length (two, little-endian, taken modulo 9001) and what to do with it (low bit: flip a
// bit after sealing; the rest: where). Keys, counters and payloads follow from the input by a simple generator.
#include <cstdint>
#include <cstring>
#include <vector>

#include "dataplane/core/wireguard/aead.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  using namespace penstock::wireguard;
  static const auto lanes = make_aead_context("lanes");
  static const auto openssl = make_aead_context("openssl");
  if (!lanes) return 0;
  std::uint64_t state = size;
  for (std::size_t i = 0; i < size; ++i) state = state * 6364136223846793005ULL + input[i];
  const auto next = [&state] {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint8_t>(state >> 56);
  };

  struct One {
    std::uint8_t key[32];
    std::uint64_t counter;
    std::uint32_t length;
    bool flip;
    std::size_t bit;
    std::vector<std::uint8_t> plain, lanes, openssl;
  };
  std::vector<One> all;
  for (std::size_t at = 0; at + 3 <= size && all.size() < 80; at += 3) {
    One one;
    one.length = static_cast<std::uint32_t>((input[at] | input[at + 1] << 8) % 9001);
    for (auto& byte : one.key) byte = next();
    one.counter = next() * 0x0101010101010101ULL ^ next();
    one.plain.resize(one.length);
    for (auto& byte : one.plain) byte = next();
    one.flip = (input[at + 2] & 1) != 0;
    one.bit = (input[at + 2] >> 1) * 8191U % ((one.length + kAeadTagSize) * 8);
    one.lanes = one.plain;
    one.lanes.resize(one.length + kAeadTagSize);
    one.openssl = one.lanes;
    all.push_back(std::move(one));
  }
  std::vector<AeadJob> ours, theirs;
  for (auto& one : all) {
    ours.push_back({one.key, one.counter, one.lanes.data(), one.length, false});
    theirs.push_back({one.key, one.counter, one.openssl.data(), one.length, false});
  }
  lanes->seal(ours);
  openssl->seal(theirs);
  for (auto& one : all) {
    require(one.lanes == one.openssl);
    if (one.flip) one.lanes[one.bit / 8] = static_cast<std::uint8_t>(one.lanes[one.bit / 8] ^ (1U << (one.bit % 8)));
  }
  lanes->open(ours);
  for (std::size_t i = 0; i < all.size(); ++i) {
    require(ours[i].ok == !all[i].flip);
    if (ours[i].ok && all[i].length != 0)
      require(std::memcmp(all[i].lanes.data(), all[i].plain.data(), all[i].length) == 0);
  }
  return 0;
}
