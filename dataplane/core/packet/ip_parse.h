// Strict parsing of IP packets of either family: IPv4 with options (RFC 791), IPv6 with a bounded chain of extension
// headers (RFC 8200 §4). Bytes in, view or reason out; nothing is read beyond what the lengths in the header and the
// number of bytes both allow. Pure functions.
#pragma once

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"

namespace penstock {

// Lengths and offsets are in bytes from the start of the IP header.
struct IpView {
  std::uint8_t version = 0;           // 4 or 6
  std::uint8_t protocol = 0;          // of the transport, behind all extension headers
  std::uint8_t ttl = 0;               // or hop limit
  std::uint8_t tos = 0;               // TOS or traffic class, all eight bits
  std::uint16_t header_length = 0;    // where the transport header (or a later fragment's payload) starts
  std::uint16_t total_length = 0;     // of the packet as its header says; `bytes` may hold less when quoted
  std::uint16_t fragment_offset = 0;  // of this fragment's payload
  bool more_fragments = false;
  bool has_fragment_header = false;   // IPv6: also an atomic fragment (offset 0, no more)
  bool dont_fragment = false;         // IPv4
  std::uint16_t fragment_header = 0;  // IPv6: where it stands; 0: none
  std::uint32_t identification = 0;   // IPv4: always; IPv6: of the fragment header
  std::uint16_t routing_header = 0;   // IPv6: routing header with segments left; 0: none
  std::uint16_t source_route = 0;     // IPv4: unexpired loose or strict source route option; 0: none
  bool extension_behind_fragment = false;  // IPv6: an extension header (or AH) behind the fragment header

  [[nodiscard]] bool v6() const { return version == 6; }
  // A real fragment: not the whole datagram.
  [[nodiscard]] bool fragment() const { return more_fragments || fragment_offset != 0; }
  [[nodiscard]] bool later_fragment() const { return fragment_offset != 0; }
  [[nodiscard]] std::uint16_t payload_length() const {
    return static_cast<std::uint16_t>(total_length - header_length);
  }
};

enum class ParseMode : std::uint8_t {
  whole,      // every byte the header promises must be there
  piecewise,  // as whole, but a fragment need not fit its fellows: for those who handle each by itself (stateless)
  quoted,     // inside an ICMP error: the end may be cut off anywhere behind the IP header
};

struct IpParse {
  DropReason reason = DropReason::none;
  IpView view;
};

// Refuses (ip_malformed): wrong version, lengths that contradict each other or the bytes, options that run over,
// jumbograms, more than 8 extension headers or a hop-by-hop header that is not the first (behind a fragment header it
// is taken for an unknown protocol instead), fragments whose end would lie beyond 65535 or whose length is no multiple
// of 8 while more follow, v4-mapped IPv6 addresses. Bytes behind the packet's end are ignored.
[[nodiscard]] IpParse parse_ip(Bytes bytes, ParseMode mode = ParseMode::whole);

// The same for a packet whose `data` points at an IP header: also cuts padding off its end and fills l4_offset,
// l4_protocol (0xff for a later fragment) and the flags ip6, fragment, later_fragment.
[[nodiscard]] IpParse parse_ip(Packet& packet);

// Precondition: `bytes` parsed as IPv4.
[[nodiscard]] bool ipv4_header_checksum_ok(Bytes bytes);

// Precondition: `bytes` parsed.
[[nodiscard]] IpAddress ip_source(Bytes bytes, const IpView& view);
[[nodiscard]] IpAddress ip_destination(Bytes bytes, const IpView& view);

// Addresses that no packet may come from: unspecified, loopback, multicast, reserved, broadcast (0/8, 127/8, 224/3, ::,
// ::1, ff00::/8).
[[nodiscard]] bool source_is_invalid(const IpAddress& source);

}  // namespace penstock
