// Changing IP packets in place with their checksums, and making the answers that routers and hosts give. Pure
// functions.
#pragma once

#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/ip_parse.h"

namespace penstock::model {

// Precondition for all: the packet parsed as `view`.
void set_ttl(MutableBytes packet, std::uint8_t ttl);
// Addresses of the packet's family; ports of UDP and TCP; the identifier of an ICMP echo. What is not given stays; a
// later fragment has none. Checksums change by the difference; UDP's zero over IPv4 stays zero.
void rewrite(MutableBytes packet, const IpView& view, const IpAddress& source, const IpAddress& destination,
             std::optional<std::uint16_t> source_port, std::optional<std::uint16_t> destination_port,
             std::optional<std::uint16_t> identifier);
// An ICMP error and the packet it quotes (behind 8 bytes of ICMP header; as `quoted`).
void rewrite_error(MutableBytes packet, const IpView& view, const IpView& quoted, const IpAddress& source,
                   const IpAddress& destination, const Endpoint& quoted_source, const Endpoint& quoted_destination,
                   bool quotes_echo);
// RFC 9293 §3.10.7.1; empty for a reset.
[[nodiscard]] std::vector<std::uint8_t> tcp_reset(Bytes packet, const IpView& view);

}  // namespace penstock::model
