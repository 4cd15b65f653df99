#include "dataplane/core/wireguard/blake2s_batch.h"

#include <algorithm>
#include <cstring>

namespace penstock::wireguard {

using MacLanes = void(const std::uint32_t* chain, const std::uint8_t* const* keys, const std::uint8_t* const* messages,
                      std::size_t length, std::uint8_t (*out)[16]);
MacLanes blake2s_mac_x8, blake2s_mac_x16;

namespace {

struct Widest {
  std::size_t width;
  MacLanes* function;
};

Widest widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {16, blake2s_mac_x16};
  if (__builtin_cpu_supports("avx2")) return {8, blake2s_mac_x8};
#endif
  return {1, nullptr};
}

const Widest kWidest = widest();

Mac mac_one(const MacChain& key, const std::uint8_t* message, std::size_t length) {
  Blake2s state = Blake2s::resumed(key, kMacSize);
  state.update({message, length});
  Mac out;
  state.finish(out);
  return out;
}

// `keys` empty: `key` for all.
void run(const MacChain& key, std::span<const std::uint8_t* const> keys, std::span<const std::uint8_t* const> messages,
         std::size_t length, Mac* out) {
  static_assert(sizeof(MacChain) == 32 && sizeof(Mac) == 16);
  std::size_t done = 0;
  // Lanes pay from a few messages on; the last one is repeated into lanes that would be idle.
  while (kWidest.function != nullptr && messages.size() - done > 2) {
    const std::size_t n = std::min(kWidest.width, messages.size() - done);
    const std::uint8_t* lanes[16];
    const std::uint8_t* lane_keys[16];
    std::uint8_t macs[16][16];
    for (std::size_t i = 0; i < kWidest.width; ++i) {
      lanes[i] = messages[done + std::min(i, n - 1)];
      lane_keys[i] = keys.empty() ? nullptr : keys[done + std::min(i, n - 1)];
    }
    kWidest.function(key.data(), keys.empty() ? nullptr : lane_keys, lanes, length, macs);
    std::memcpy(out[done].data(), macs, n * sizeof(Mac));
    done += n;
  }
  for (; done < messages.size(); ++done)
    out[done] = mac_one(keys.empty() ? key : mac_chain({keys[done], kMacSize}), messages[done], length);
}

}  // namespace

void mac_batch(const MacChain& key, std::span<const std::uint8_t* const> messages, std::size_t length, Mac* out) {
  run(key, {}, messages, length, out);
}

void mac_batch(std::span<const std::uint8_t* const> keys, std::span<const std::uint8_t* const> messages,
               std::size_t length, Mac* out) {
  run({}, keys, messages, length, out);
}

std::size_t mac_batch_width() {
  return kWidest.width;
}

}  // namespace penstock::wireguard
