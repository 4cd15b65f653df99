// What is known of a burst's first packets before their flows are set up (first.cc).
#pragma once

#include <cstdint>

#include "dataplane/core/flow/key.h"
#include "dataplane/core/policy/snapshot.h"

namespace penstock::nat {

class PortSpace;

struct FirstPacket {
  const flow::InsideKey* key;
  const policy::PeerPolicy* policy;  // that `verdict` is of; nullptr: the peer has none
  policy::Verdict verdict;
  flow::OutsideKey outside;      // as guessed
  std::uint64_t outside_hash;
  PortSpace* ports;              // nullptr: no port is chosen
  std::uint16_t proposed;        // instead of the client's own; 0: none
};

}  // namespace penstock::nat
