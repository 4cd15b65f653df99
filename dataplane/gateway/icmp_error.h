// ICMP errors that the gateway sends about packets it cannot route or deliver (RFC 792, RFC 1812 §4.3.2, RFC 4443
// §2.4). Errors about flows and filters are the translator's; these are about the next hop. Pure functions.
#pragma once

#include "dataplane/core/packet/packet.h"
#include "dataplane/gateway/configuration.h"

namespace penstock::gateway {

enum class Unreachable : std::uint8_t { net, host, too_big };

// Whether an error may be sent about `packet` (data at its IP header): never about our own packets, errors, later
// fragments, groups, or towards an address that is no single host.
[[nodiscard]] bool may_answer_with_error(const Packet& packet);

// Writes the error into `error` (empty): data at its IP header. `mtu`: for too_big. False: no source address.
// Precondition: may_answer_with_error(packet).
// The source is our address towards the packet's sender.
bool build_icmp_error(const Configuration& configuration, const Packet& packet, Unreachable what, std::uint16_t mtu,
                      Packet& error);

// The same with a source of the caller's choice (of the packet's family).
bool build_icmp_error_from(const IpAddress& from, const Packet& packet, Unreachable what, std::uint16_t mtu,
                           Packet& error);

}  // namespace penstock::gateway
