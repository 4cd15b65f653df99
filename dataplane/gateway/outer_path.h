// The path of a WireGuard data message, read where it stands: tunnel_input leaves the outer headers untouched in front
// of the message, with l4_offset and the flag ip6 still theirs, and decap asks for the path of the few packets whose
// path matters, instead of keeping that of every packet.
#pragma once

#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/gateway/worker.h"

namespace penstock::gateway {

// Where a tunnel datagram came from, whose IP header of `header_length` bytes lies before its UDP header.
[[nodiscard]] Path outer_path(const Worker& worker, const std::uint8_t* udp, std::uint16_t header_length, bool six);

}  // namespace penstock::gateway
