// Length against MTU: whether a translated packet fits its way, may be cut, or is too big for it, and what its sender
// is then told. Pure functions, for the stateful and the stateless translator alike.
//
// RFC 7915 §4: an IPv4 packet without DF may be cut, towards IPv6 to lowest-ipv6-mtu, by
// default the 1280 bytes that every way carries. §5.1: what
// comes from IPv6 and is at most 1260 bytes long in IPv4, or was a fragment before, has no DF and may be cut. The rest
// is refused with an MTU as it looks from the sender's side (±20, ±28 with a fragment header).
#pragma once

#include <cstdint>

#include "dataplane/core/packet/ip_parse.h"

namespace penstock::nat {

enum class Fit : std::uint8_t { fits, cut, too_big };

struct Fitting {
  Fit fit = Fit::fits;
  std::uint16_t limit = 0;  // cut: the longest piece
  std::uint32_t tell = 0;   // too_big: the MTU for the sender
};

// `mtu`: of the way out. `lowest6`: lowest-ipv6-mtu. `view`: of the packet as it came.
[[nodiscard]] Fitting fit_packet(const IpView& view, bool to6, std::uint16_t mtu, std::uint16_t lowest6);

}  // namespace penstock::nat
