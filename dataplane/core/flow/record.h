// One flow: two cache lines, no pointers, no padding, so that a table can be handed to the next process as it is.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dataplane/core/base/address.h"
#include "dataplane/core/flow/key.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::flow {

// Time in a flow table: units of 2^26 ns (67 ms) since the table was made; 32 bits last nine years.
using Tick = std::uint32_t;
inline constexpr unsigned kTickShift = 26;

// Position in the table.
using Slot = std::uint32_t;
inline constexpr Slot kNoSlot = 0xffffffff;

// FlowRecord::source_address of a flow that keeps its client's address (inside_source).
inline constexpr std::uint16_t kOwnSource = 0xffff;

enum class Translation : std::uint8_t { nat44 = 0, nat66 = 1, nat64 = 2, nat46 = 3 };  // 1: inside IPv6, or both

// Written by the owning worker only. Fields that change after set-up are changed with relaxed atomic stores
// (FlowTable::store), so that other threads may copy a record at any time.
struct alignas(128) FlowRecord {
  // First line: the inside key and what both directions check and update.
  IpAddress inside_source;
  IpAddress inside_destination;
  PeerIndex peer;
  std::uint16_t inside_source_port;
  std::uint16_t inside_destination_port;
  std::uint8_t protocol;  // as in the keys: 1 for ICMP queries of both families
  Translation translation;
  std::uint8_t state;  // nat::TcpState for TCP
  std::uint8_t flags;
  std::uint32_t policy_epoch;  // of the judgement
  std::uint32_t expires;       // wall seconds at which the authorisation ends; 0: never
  Tick last_seen;
  std::uint16_t source_address;  // index of ours
  std::uint16_t source_port;     // ours
  std::uint16_t remote_port;
  std::uint16_t reserved0;

  // Second line.
  IpAddress remote;
  std::uint16_t up_delta;  // transport checksum: sum to add when translating up (RFC 1624), memory order
  std::uint16_t down_delta;
  std::uint32_t translation_tag;
  std::uint64_t packets_up;
  std::uint64_t packets_down;
  std::uint32_t version;  // even: stable; of the copying protocol
  Tick deadline;          // when the wheel looks at it next
  Slot next_free;
  std::uint16_t live;  // 1: in use
  std::uint16_t reserved1;
  std::uint64_t reserved2;

  [[nodiscard]] InsideKey inside_key() const {
    return {inside_source, inside_destination, peer, inside_source_port, inside_destination_port, protocol};
  }
};
static_assert(sizeof(FlowRecord) == 128 && std::is_trivially_copyable_v<FlowRecord>);

}  // namespace penstock::flow
