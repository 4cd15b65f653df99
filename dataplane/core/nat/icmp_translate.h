// ICMP errors about translated packets: the quoted packet is translated back as well, within a family in place, across
// families by building the message anew (RFC 7915 §4.2, §4.3, §5.2, §5.3; RFC 5508 §4; RFC 4884 extensions).
#pragma once

#include "dataplane/core/nat/icmp_types.h"
#include "dataplane/core/nat/translate.h"

namespace penstock::nat {

// The packet that an ICMP error quotes.
struct Quoted {
  DropReason reason = DropReason::none;
  Bytes bytes;       // from its IP header to the end of what is quoted of it (without padding and extensions)
  Bytes extensions;  // RFC 4884 structure behind it, maybe empty
  IpView view;
  Tuple tuple;
  std::uint8_t protocol = 0;  // ip_protocol::icmp for queries of both families
};

// Looks into an ICMP error. Only 4 bytes of a quoted TCP or UDP header, 8 of an ICMP query, are needed. Reasons:
// transport_malformed (too short, checksum wrong: an error that came damaged must not go on with a right one),
// icmp_error_unmatched (quotes what can have no flow: a later fragment, another protocol, less than ports; `view`,
// `bytes`, `protocol` and the tuple's addresses are set nevertheless, which is enough for an address map),
// icmp_error_about_error, icmp_type_unsupported (`packet` is no ICMP error).
[[nodiscard]] Quoted parse_quoted(Bytes packet, const IpView& view);

struct ErrorRewrite {
  IpAddress source;  // of the message, after
  IpAddress destination;
  Rewrite quoted;  // of the quoted packet
  MtuContext mtu;
  std::uint16_t identification = 0;  // for an IPv4 header
};

// Translates the message in place. Result at most 1280 bytes long across families towards IPv6, 576 towards IPv4 (RFC
// 4443 §2.4, RFC 1812 §4.3.2.3). Reasons: nat_untranslatable, no_headroom, transport_malformed.
[[nodiscard]] DropReason translate_icmp_error(Packet& packet, const IpView& view, const Quoted& quoted,
                                              const ErrorRewrite& rewrite);

}  // namespace penstock::nat
