// The short way for packets of existing flows: plain headers, read and rewritten in place.
//
// Theory of operation. Nearly every packet is an unfragmented TCP or UDP packet without IP options or extension headers,
// of a flow that exists, may go on, and changes nothing by this packet. The translator looks at a burst in three steps
// (translator.cc): read the plain headers and hash the keys while the index is fetched; fetch the records; then check
// and rewrite each. Whatever is not plain, not found or not fit goes the whole way (up.cc, down.cc), packet by packet and
// in its place in the order. So this file decides nothing that the whole way would decide differently: it may only
// decline. What it writes is what translate.h would write, byte by byte (tests/unit/nat/fast_path_test.cc compares them).
//
// Checksums are adjusted by differences that were worked out when the flow was opened (RFC 1624), so a wrong transport
// checksum stays wrong; IPv4 header checksums are verified here. Pure functions, any thread.
#pragma once

#include <cstdint>

#include "dataplane/core/flow/record.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

// The two directions of a burst, read. False: not plain (or not well-formed, or TTL used up, or a UDP checksum of zero).
// `key.peer` is not filled.
[[nodiscard]] bool read_plain(const Packet& packet, flow::InsideKey& key);
[[nodiscard]] bool read_plain(const Packet& packet, flow::OutsideKey& key);

// Works the differences of a new flow out, or of one whose remote end or port of ours has changed: up_delta, down_delta,
// up_header, down_header. `source`: the address of ours that record.source_address stands for.
void prepare_rewrite(flow::FlowRecord& record, const IpAddress& source);

// Whether a TCP segment with these flags leaves a session in `state` as it is, and proves that it is alive.
[[nodiscard]] bool tcp_is_plain(std::uint8_t state, std::uint8_t flags);

// Length after translation, for a packet that read_plain took.
[[nodiscard]] inline std::uint16_t plain_translated_length(const Packet& packet, bool from6, bool to6) {
  return static_cast<std::uint16_t>(packet.length + (to6 ? 20 : 0) - (from6 ? 20 : 0));
}

// Translates a packet that read_plain took and that belongs to the flow. `identification`: for IPv4 headers that get a
// new one. `keep_identification`: within IPv4. False: no headroom (the packet is unchanged).
[[nodiscard]] bool rewrite_up(Packet& packet, const flow::FlowRecord& record, const IpAddress& source,
                              std::uint16_t identification, bool keep_identification);
[[nodiscard]] bool rewrite_down(Packet& packet, const flow::FlowRecord& record, std::uint16_t identification);

}  // namespace penstock::nat
