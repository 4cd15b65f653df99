#include "dataplane/core/wireguard/blake2s_batch.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "dataplane/core/wireguard/blake2s_openssl.h"

namespace penstock::wireguard {

MacLanes blake2s_mac_x8, blake2s_mac_x16;

namespace {

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}

constexpr std::size_t kWidest = 16;
const MacVariant kVariants[] = {{"16 lanes, AVX-512", kWidest, blake2s_mac_x16, has_avx512()},
                                {"8 lanes, AVX2", 8, blake2s_mac_x8, has_avx2()},
                                {"one at a time", 1, nullptr, true}};
const MacVariant& kUsed = *std::find_if(std::begin(kVariants), std::end(kVariants),
                                        [](const MacVariant& variant) { return variant.available; });

// Lanes pay from a few messages on.
constexpr std::size_t kFew = 2;

// As many whole turns of lanes as pay; the last message is repeated into lanes that would be idle. Returns how many
// messages are done. `keys` empty: `chain` for all.
std::size_t run_lanes(const std::uint32_t* chain, std::span<const std::uint8_t* const> keys,
                      std::span<const std::uint8_t* const> messages, std::size_t length, Mac* out) {
  static_assert(sizeof(Mac) == kMacSize);
  if (kUsed.function == nullptr || !own_blake2s()) return 0;
  std::size_t done = 0;
  while (messages.size() - done > kFew) {
    const std::size_t n = std::min(kUsed.width, messages.size() - done);
    const std::uint8_t* lanes[kWidest];
    const std::uint8_t* lane_keys[kWidest];
    std::uint8_t macs[kWidest][kMacSize];
    for (std::size_t i = 0; i < kUsed.width; ++i) {
      lanes[i] = messages[done + std::min(i, n - 1)];
      if (!keys.empty()) lane_keys[i] = keys[done + std::min(i, n - 1)];
    }
    kUsed.function(chain, keys.empty() ? nullptr : lane_keys, lanes, length, macs);
    std::memcpy(out[done].data(), macs, n * sizeof(Mac));
    done += n;
  }
  return done;
}

}  // namespace

MacKey::~MacKey() {
  wipe(key_);
  wipe({reinterpret_cast<std::uint8_t*>(chain_.data()), sizeof chain_});
}

Mac MacKey::mac(Parts parts) const {
  if (!own_blake2s()) return openssl_mac(key_, parts);
  Blake2s state = Blake2s::resumed(chain_, kMacSize);
  for (const Bytes part : parts) state.update(part);
  Mac out;
  state.finish(out);
  return out;
}

void mac_batch(const MacKey& key, std::span<const std::uint8_t* const> messages, std::size_t length, Mac* out) {
  for (std::size_t i = run_lanes(key.chain().data(), {}, messages, length, out); i < messages.size(); ++i)
    out[i] = key.mac({Bytes{messages[i], length}});
}

void mac_batch(std::span<const std::uint8_t* const> keys, std::span<const std::uint8_t* const> messages,
               std::size_t length, Mac* out) {
  for (std::size_t i = run_lanes(nullptr, keys, messages, length, out); i < messages.size(); ++i)
    out[i] = mac({keys[i], kMacSize}, {Bytes{messages[i], length}});
}

std::span<const MacVariant> mac_variants() {
  return kVariants;
}

}  // namespace penstock::wireguard
