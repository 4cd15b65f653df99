// TCP sessions as a NAT sees them: RFC 6146 §3.5.2.2, with "V6" read as inside and "V4" as outside.
//
// One deviation, on the safe side: a SYN from inside
// restarts a session that is half dead (both FINs, or an RST, seen) instead of being taken for proof of life.
#pragma once

#include <cstdint>
#include <string_view>

namespace penstock::nat {

enum class TcpState : std::uint8_t {
  init,      // SYN from inside (V6 INIT)
  incoming,  // SYN from outside (V4 INIT): only where an endpoint-independent mapping lets it in
  established,
  fin_inside,   // FIN from inside (V6 FIN RCV)
  fin_outside,  // FIN from outside (V4 FIN RCV)
  fin_both,     // V4 FIN + V6 FIN RCV
  transitory,   // RST seen (TRANS)
};

enum class TcpLifetime : std::uint8_t { unchanged, incoming, transitory, established };

struct TcpStep {
  TcpState state;
  TcpLifetime lifetime;
};

// `flags`: of the TCP header.
[[nodiscard]] TcpStep tcp_step(TcpState state, bool from_inside, std::uint8_t flags);

// Whether a segment from inside may begin a flow: SYN alone among SYN, ACK, FIN, RST.
[[nodiscard]] bool tcp_begins(std::uint8_t flags);

// The lifetime that goes with a state.
[[nodiscard]] TcpLifetime tcp_lifetime(TcpState state);

[[nodiscard]] std::string_view name_of(TcpState state);

}  // namespace penstock::nat
