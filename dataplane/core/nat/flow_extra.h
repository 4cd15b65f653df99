// What is known of few flows: kept beside the flow table, one entry per slot, in memory that the system gives only when
// it is written. A flow that has something here carries a mark in FlowRecord::flags, all of which mean that its packets
// must be looked at by the translator as a whole.
#pragma once

#include <cstdint>

#include "dataplane/core/flow/record.h"

namespace penstock::nat {

// FlowRecord::flags.
namespace flow_mark {
inline constexpr std::uint8_t narrow = 0x10;      // a path MTU below the interface's is known
inline constexpr std::uint8_t opening = 0x20;     // other addresses are tried if this one does not answer
inline constexpr std::uint8_t left = 0x40;        // the name no longer has the address
inline constexpr std::uint8_t own_source = 0x80;  // appears outside as it is (source_nat off)
}  // namespace flow_mark

struct FlowExtra {
  std::uint16_t mtu_outside;  // of the way to the remote; 0: the interface's
  std::uint16_t mtu_inside;   // of the way to the client; 0: the tunnel's
  flow::Tick mtu_since;
  flow::Tick heard;       // `left`: when the remote was last heard of
  std::uint16_t opening;  // `opening`: index in Openings
};

}  // namespace penstock::nat
