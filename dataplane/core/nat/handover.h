// A flow as one process leaves it to the next (docs/healing.md, "Warm restart"). Plain values: what is found again from
// them (checksum differences, table positions, bindings, timers) is not said. Not handed over: fragments, SYNs that are
// being tried at several addresses, learned path MTUs.
#pragma once

#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

struct FlowHandover {
  PeerIndex peer = kNoPeer;  // of the process that holds the value
  IpAddress inside_source;
  IpAddress inside_destination;
  IpAddress source;  // ours, or the client's own
  IpAddress remote;
  std::uint16_t inside_source_port = 0;
  std::uint16_t inside_destination_port = 0;
  std::uint16_t source_port = 0;
  std::uint16_t remote_port = 0;
  std::uint8_t protocol = 0;
  std::uint8_t state = 0;  // TcpState
  std::uint32_t translation_tag = 0;
  std::uint32_t expires = 0;  // wall seconds; 0: never
  Duration idle{};
  std::uint64_t packets_up = 0;
  std::uint64_t packets_down = 0;

  bool operator==(const FlowHandover&) const = default;
};

}  // namespace penstock::nat
