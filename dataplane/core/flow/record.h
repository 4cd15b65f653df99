// One flow: two cache lines, no pointers, no padding: the line that a packet of an existing flow is found by and the line
// it is rewritten with, side by side, so that memory fetches the one with the other. What else a flow needs, for set-up and
// the rare cases, is in what these lines leave (`spare`: who needs a per-flow field takes it from there, or beside the
// table as nat::FlowExtra does). A field that makes the fast path unfit for a flow's packets sets a bit in `flags`
// besides, which the fast path tests as a whole (flow_flag::slow).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
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

[[nodiscard]] constexpr bool inside_is_v6(Translation translation) {
  return translation == Translation::nat66 || translation == Translation::nat64;
}
[[nodiscard]] constexpr bool outside_is_v6(Translation translation) {
  return translation == Translation::nat66 || translation == Translation::nat46;
}

// FlowRecord::flags. A flow with any of `slow` is left to the whole translator, packet by packet.
namespace flow_flag {
inline constexpr std::uint8_t slow = 0xf0;
}  // namespace flow_flag

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
  std::uint8_t flags;  // flow_flag
  std::uint32_t policy_epoch;  // of the judgement
  std::uint32_t expires;       // wall seconds at which the authorisation ends; 0: never
  Tick last_seen;
  std::uint16_t source_address;  // index of ours
  std::uint16_t source_port;     // ours
  std::uint16_t remote_port;
  std::uint16_t reserved0;

  // Second line: the outside key's rest and the rewrite.
  IpAddress remote;
  std::uint16_t up_delta;  // transport checksum: sum to add when translating up (RFC 1624), memory order
  std::uint16_t down_delta;
  std::uint16_t up_header;    // IPv4 header checksum, memory order: within IPv4 the sum to add for the addresses; from
  std::uint16_t down_header;  // IPv6 to IPv4 the sum of what all the flow's headers share. 0 towards IPv6
  std::uint64_t packets_up;
  std::uint64_t packets_down;
  std::uint32_t version;  // even: stable; of the copying protocol
  std::uint32_t translation_tag;
  Slot next_free;
  std::uint16_t live;  // 1: in use
  std::array<std::uint8_t, 10> spare;

  // The record begins as its inside key does, so that both are compared by words.
  [[nodiscard]] bool has(const InsideKey& key) const {
    const auto word = [](const void* of, std::size_t at) {
      std::uint64_t value;
      std::memcpy(&value, static_cast<const std::uint8_t*>(of) + at, sizeof value);
      return value;
    };
    std::uint64_t difference = std::uint64_t{protocol} ^ key.protocol;
    for (const std::size_t at : {0U, 8U, 16U, 24U, 32U}) difference |= word(this, at) ^ word(&key, at);
    return difference == 0;
  }

  [[nodiscard]] InsideKey inside_key() const {
    return {inside_source, inside_destination, peer, inside_source_port, inside_destination_port, protocol};
  }
};
static_assert(sizeof(FlowRecord) == 128 && std::is_trivially_copyable_v<FlowRecord>);
static_assert(offsetof(FlowRecord, inside_destination) == offsetof(InsideKey, destination) &&
              offsetof(FlowRecord, peer) == offsetof(InsideKey, peer) &&
              offsetof(FlowRecord, inside_source_port) == offsetof(InsideKey, source_port) &&
              offsetof(FlowRecord, inside_destination_port) == offsetof(InsideKey, destination_port) &&
              offsetof(FlowRecord, protocol) == 40 && offsetof(InsideKey, protocol) == 40);

}  // namespace penstock::flow
