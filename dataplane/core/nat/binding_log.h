// Records of what a client looked like from outside, and when: for those who must be able to say who used an address
// and port (RFC 6888 REQ-12, RFC 8158). Off unless the translator is given somewhere to write them to.
#pragma once

#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

struct BindingRecord {
  bool begins = false;  // otherwise it ends
  WallTime at;
  PeerIndex peer = kNoPeer;
  std::uint8_t protocol = 0;
  Endpoint inside;   // of the client; ICMP: the port is the identifier
  Endpoint outside;  // ours
  Endpoint remote;   // unspecified where destinations are not wanted (RFC 6888 §4 advises against them)
};

// Called by the translator's thread for every flow that begins or ends (with an endpoint-independent mapping and no
// destinations wanted: for every binding). Must not block; what it cannot take it loses, and counts.
class BindingLog {
 public:
  virtual ~BindingLog() = default;
  [[nodiscard]] virtual bool wants_destinations() const = 0;
  virtual void write(const BindingRecord& record) = 0;
};

}  // namespace penstock::nat
