// Keyed BLAKE2s with 16 bytes of output (WireGuard's MAC) over many messages of equal length: as many at once as the
// machine's vectors hold, which is how a flood of handshake messages is looked through. Any thread, no state.
#pragma once

#include <span>

#include "dataplane/core/wireguard/blake2s.h"
#include "dataplane/core/wireguard/crypto.h"

namespace penstock::wireguard {

// A MAC key ready for use: the chaining value behind its block. 16-byte output.
using MacChain = Blake2s::Chain;
[[nodiscard]] inline MacChain mac_chain(Bytes key) {
  return Blake2s::keyed_chain(kMacSize, key);
}

// MACs of `messages` (`length` > 0 bytes each) to `out`. One key for all ...
void mac_batch(const MacChain& key, std::span<const std::uint8_t* const> messages, std::size_t length, Mac* out);
// ... or one for each, of 16 bytes (a cookie).
void mac_batch(std::span<const std::uint8_t* const> keys, std::span<const std::uint8_t* const> messages,
               std::size_t length, Mac* out);

// How many messages go at once here: 16, 8, or 1.
[[nodiscard]] std::size_t mac_batch_width();

}  // namespace penstock::wireguard
