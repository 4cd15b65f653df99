// Translation of one packet's headers: RFC 7915 across families, plain address and port translation within one.
//
// Stateless: what the addresses and ports become is given. The stateful translator, ICMP errors (for the packet they
// quote) and address maps all come through here. Works in place; the packet grows by at most 28 bytes at its front.
//
// Checksums: transport checksums are adjusted by difference (RFC 1624), never recomputed, so a wrong one stays wrong;
// exceptions are a UDP checksum of zero towards IPv6 (computed, RFC 7915 §4.5) and IPv4 header checksums, which the
// caller has verified.
#pragma once

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::nat {

inline constexpr std::uint16_t kIpv6MinimumMtu = 1280;  // RFC 8200 §5
inline constexpr std::uint16_t kIpv4MinimumMtu = 576;   // RFC 1812 §4.3.2.3: longest ICMP error

// The tuple of a packet. ICMP queries: the identifier is the port of the one side, 0 that of the other.
struct Tuple {
  IpAddress source;
  IpAddress destination;
  std::uint16_t source_port = 0;  // host order
  std::uint16_t destination_port = 0;
};

// What a packet's tuple becomes.
struct Rewrite {
  Tuple to;
  bool ports = true;        // false: ports and identifiers are left alone (address maps)
  std::uint16_t delta = 0;  // transport_delta() of the change
};

// The folded sum to add to a transport checksum's complement when the tuple changes, memory order. Covers pseudo-header
// addresses and ports; what depends on the packet (ICMP types, the length in ICMPv6's pseudo-header) is added when
// translating. `protocol`: ip_protocol::icmp stands for both.
[[nodiscard]] std::uint16_t transport_delta(const Tuple& from, const Tuple& to, std::uint8_t protocol, bool ports);

struct HeaderOptions {
  bool forward = true;                 // decrement TTL / hop limit (not for a quoted packet)
  std::uint16_t identification = 0;    // for IPv4 headers, used when set_identification
  bool set_identification = false;     // false: kept (within IPv4), or taken from the fragment header, or 0
  std::uint16_t transport_length = 0;  // of the whole datagram when this is a fragment of it; 0: this packet's
};

// Translates in place. `view` is of the packet as it is; afterwards l4_offset, l4_protocol and flags are right for the
// new header. The caller has checked: TTL > 1 when forwarding, no source route, no routing header with segments left,
// IPv4 header checksum. Reasons: nat_untranslatable (a zero UDP checksum in a fragment or from IPv6 to IPv4, ICMP types
// that have no counterpart), transport_malformed (too short for its header), no_headroom. On an error the packet is
// unspecified.
[[nodiscard]] DropReason translate_packet(Packet& packet, const IpView& view, const Rewrite& rewrite,
                                          const HeaderOptions& options);

// Writes the IPv4 or IPv6 header that `packet`'s header becomes, and nothing else, to `out` (40 + 8 bytes); returns its
// length. For the packet quoted in an ICMP error, whose payload may be cut off.
std::size_t write_translated_header(const IpView& view, const IpAddress& source, const IpAddress& destination,
                                    const HeaderOptions& options, std::uint8_t* out);

// The transport header in `transport` (all that is there of it, maybe only 8 bytes or less) gets its new ports and an
// adjusted checksum, as far as these are there. `from6`, `to6`: the families; `transport_length`: by the IP header.
// Reasons: as above.
[[nodiscard]] DropReason rewrite_transport(MutableBytes transport, std::uint8_t protocol, bool from6, bool to6,
                                           const Rewrite& rewrite, std::uint16_t transport_length, bool quoted);

// Length of the packet after translation to IPv6 or IPv4.
[[nodiscard]] std::uint32_t translated_length(const IpView& view, bool to6);

// The number of ICMP or ICMPv6 in the other family; other protocols are the same.
[[nodiscard]] std::uint8_t translated_protocol(std::uint8_t protocol, bool to6);

}  // namespace penstock::nat
