// Compiled for AVX-512; see blake2s_batch.h.
#include "dataplane/core/wireguard/blake2s_lanes.h"

namespace penstock::wireguard {

void blake2s_mac_x16(const std::uint32_t* chain, const std::uint8_t* const* keys, const std::uint8_t* const* messages,
                    std::size_t length, std::uint8_t (*out)[16]) {
  Blake2sLanes<16>::mac(chain, keys, messages, length, out);
}

}  // namespace penstock::wireguard
