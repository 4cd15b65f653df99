#include "controlplane/core/paths/types.h"

namespace penstock::paths {

bool is_usable_candidate(const Endpoint& endpoint, bool allow_loopback) {
  if (endpoint.port == 0) return false;
  const IpAddress& address = endpoint.address;
  if (address.is_unspecified()) return false;
  if (address.is_v4()) {
    const std::uint32_t value = address.v4_value();
    const std::uint32_t first = value >> 24;
    if (first == 127) return allow_loopback;
    if (first == 0 || first >= 224) return false;  // "this network", multicast, reserved, broadcast
    return (value >> 16) != 0xa9fe;                // link-local
  }
  const auto& bytes = address.bytes();
  if (bytes[0] == 0xff) return false;                               // multicast
  if (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80) return false;  // link-local needs a zone we do not have
  bool zeros = true;
  for (std::size_t i = 0; i < 12; ++i) zeros = zeros && bytes[i] == 0;
  if (!zeros) return true;
  // ::/96: loopback, else the long-deprecated v4-compatible form
  for (std::size_t i = 12; i < 15; ++i)
    if (bytes[i] != 0) return false;
  return bytes[15] == 1 && allow_loopback;
}

}  // namespace penstock::paths
