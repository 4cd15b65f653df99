// What client and portal agree on beside the messages of signaling.proto.
#pragma once

namespace penstock::io {

// In the portal's initial metadata once the token has been accepted; nothing is sent to a portal before it is seen.
inline constexpr char kAcceptedMetadata[] = "penstock-accepted";

}  // namespace penstock::io
