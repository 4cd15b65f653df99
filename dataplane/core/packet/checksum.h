// Internet checksum: full (RFC 1071) and incremental (RFC 1624).
//
// Sums are kept as 64-bit one's-complement accumulators over the bytes as they lie in memory (RFC 1071 §2: the sum is
// independent of byte order), so no swapping is needed anywhere.
#pragma once

#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock {

// An accumulator: add pieces, then fold. Pieces must start at an even offset of the checksummed whole.
using ChecksumSum = std::uint64_t;

[[nodiscard]] ChecksumSum checksum_add(ChecksumSum sum, Bytes bytes);

// Folds to 16 bits, not complemented; memory order.
[[nodiscard]] constexpr std::uint16_t checksum_fold(ChecksumSum sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

// The value to store in a checksum field (complemented).
[[nodiscard]] constexpr be16 checksum_finish(ChecksumSum sum) {
  return std::bit_cast<be16>(static_cast<std::uint16_t>(~checksum_fold(sum)));
}

// Pseudo-header of RFC 793/768 (IPv4) or RFC 8200 §8.1 (IPv6); `protocol` is the transport's number, `length` the
// transport's length in bytes. Both addresses of one family.
[[nodiscard]] ChecksumSum checksum_pseudo_header(const IpAddress& source, const IpAddress& destination,
                                                 std::uint8_t protocol, std::uint32_t length);

// RFC 1624 eqn. 3, HC' = ~(~HC + ~m + m'). `removed` and `added` are sums (checksum_add) over the old and new bytes
// of what changed. A wrong checksum stays wrong by the same difference.
[[nodiscard]] constexpr be16 checksum_adjust(be16 checksum, ChecksumSum removed, ChecksumSum added) {
  const ChecksumSum kept = static_cast<std::uint16_t>(~checksum.raw());
  const ChecksumSum minus = static_cast<std::uint16_t>(~checksum_fold(removed));
  return checksum_finish(kept + minus + checksum_fold(added));
}

}  // namespace penstock
