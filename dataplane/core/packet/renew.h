// A buffer that is used again for a packet just received.
//
// Sets every field of Packet as in a fresh one, except the second cache line's: `outer` is unspecified until a stage
// sets it. Who reads it has set it, or was given the packet by who has. So nothing of that line has to be brought from
// memory for a packet that does not need it.
#pragma once

#include "dataplane/core/base/prefetch.h"
#include "dataplane/core/packet/packet.h"

namespace penstock {

inline void renew(Packet& packet, std::uint8_t* data, std::uint16_t length, std::uint16_t headroom,
                  std::uint16_t tailroom) {
  packet.data = data;
  packet.length = length;
  packet.headroom = headroom;
  packet.tailroom = tailroom;
  packet.port = kNoPort;
  packet.drop_reason = DropReason::none;
  packet.peer = kNoPeer;
  packet.l4_offset = 0;
  packet.l4_protocol = 0;
  packet.flags = 0;
  packet.mtu_hint = 0;
  packet.rss_worker = 0;
  packet.flow = 0;
  packet.next_hop = 0;
  packet.vlan = 0;
  packet.user = 0;
}

// What the first stages read of a frame: asked for when it is received, used when the whole burst has been.
inline void prefetch_frame(const std::uint8_t* data) {
  prefetch_read(data);
  prefetch_read(data + 64);
}

}  // namespace penstock
