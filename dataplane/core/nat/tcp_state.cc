#include "dataplane/core/nat/tcp_state.h"

#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

bool tcp_begins(std::uint8_t flags) {
  constexpr unsigned kAll = tcp_flag::syn | tcp_flag::ack | tcp_flag::fin | tcp_flag::rst;
  return (flags & kAll) == tcp_flag::syn;
}

TcpLifetime tcp_lifetime(TcpState state) {
  switch (state) {
    case TcpState::established:
    case TcpState::fin_inside:
    case TcpState::fin_outside:
      return TcpLifetime::established;
    case TcpState::incoming:
      return TcpLifetime::incoming;
    case TcpState::init:
    case TcpState::fin_both:
    case TcpState::transitory:
      break;
  }
  return TcpLifetime::transitory;
}

TcpStep tcp_step(TcpState state, bool from_inside, std::uint8_t flags) {
  const bool syn = (flags & tcp_flag::syn) != 0;
  const bool fin = (flags & tcp_flag::fin) != 0;
  const bool rst = (flags & tcp_flag::rst) != 0;
  switch (state) {
    case TcpState::init:
      // A SYN from outside, with ACK or (simultaneous open) without.
      if (syn && !from_inside) return {TcpState::established, TcpLifetime::established};
      return {state, syn ? TcpLifetime::transitory : TcpLifetime::unchanged};
    case TcpState::incoming:
      // A SYN from inside, with ACK or (simultaneous open) without.
      if (syn && from_inside) return {TcpState::established, TcpLifetime::established};
      return {state, TcpLifetime::unchanged};
    case TcpState::established:
      if (rst) return {TcpState::transitory, TcpLifetime::transitory};
      if (fin) return {from_inside ? TcpState::fin_inside : TcpState::fin_outside, TcpLifetime::established};
      return {state, TcpLifetime::established};
    case TcpState::fin_inside:
      if (fin && !from_inside) return {TcpState::fin_both, TcpLifetime::transitory};
      return {state, TcpLifetime::established};
    case TcpState::fin_outside:
      if (fin && from_inside) return {TcpState::fin_both, TcpLifetime::transitory};
      return {state, TcpLifetime::established};
    case TcpState::fin_both:
      if (from_inside && tcp_begins(flags)) return {TcpState::init, TcpLifetime::transitory};
      return {state, TcpLifetime::unchanged};
    case TcpState::transitory:
      if (rst) return {state, TcpLifetime::unchanged};
      if (from_inside && tcp_begins(flags)) return {TcpState::init, TcpLifetime::transitory};
      return {TcpState::established, TcpLifetime::established};
  }
  return {state, TcpLifetime::unchanged};
}

std::string_view name_of(TcpState state) {
  switch (state) {
    case TcpState::init:
      return "init";
    case TcpState::incoming:
      return "incoming";
    case TcpState::established:
      return "established";
    case TcpState::fin_inside:
      return "fin_inside";
    case TcpState::fin_outside:
      return "fin_outside";
    case TcpState::fin_both:
      return "fin_both";
    case TcpState::transitory:
      return "transitory";
  }
  return "unknown";
}

}  // namespace penstock::nat
