// What a wire is told to be, as text: the NAT's kind and the link's properties.
//
//   MAPPING,FILTERING,PORTS[,WORD|KEY=VALUE ...]      or      none[,KEY=VALUE ...]   (a link without a NAT)
//
//   MAPPING, FILTERING   independent | address | port      RFC 4787 §4.1, §5: on what a mapping, a filter depends
//   PORTS                random | preserving | parity | sequential | overloading           §4.2
//   words                reject        unexpected packets are answered with an ICMP error (else dropped)
//                        takes-port    an unexpected packet makes the next mapping to its sender use another port
//                        refresh-in    packets from outside refresh a mapping too (§4.3)
//                        arbitrary     one inside address may show different outside addresses (§4.1)
//                        no-hairpin    (§6)
//                        keep-order    jitter reorders nothing
//                        black-hole    packets bigger than the MTU vanish without a word
//   keys                 timeout=120s  life=30m (a mapping dies so long after its creation)
//                        delay=10ms jitter=2ms reorder=5 (per mille) reorder-by=5ms loss=10 (per mille) burst=3
//                        duplicate=1 (per mille) mtu=1400 rate=1000000 (bytes per second) queue=65536 (bytes)
//
// Link properties hold for each direction alone. Pure.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "tests/model/link_model.h"
#include "tests/model/nat_box.h"

namespace penstock::wire {

struct Spec {
  bool nat = true;
  model::NatBehaviour behaviour;
  model::Link link;
  bool black_hole = false;
};

// The specification, or what is wrong with it in words.
[[nodiscard]] std::variant<Spec, std::string> parse_spec(std::string_view text);

}  // namespace penstock::wire
