// IP packets as readable text and back, for tables of packets.
//
//   ip4 src=100.64.0.2 dst=100.96.0.1 tos=0x02 ttl=64 df udp sport=4000 dport=53 data=00112233
//   ip6 src=... dst=... icmp type=packet_too_big mtu=1280 [ ip6 src=... dst=... udp sport=1 dport=2 cut=8 ]
//
// Layers, outermost first: ip4, ip6, hbh, dest, route, frag, tcp, udp, icmp (of the family it stands in), raw. Fields
// are `name=value`, flags stand alone. Lengths, next headers and checksums are filled in unless given: `sum=bad` makes
// a checksum wrong by a fixed difference, `sum=none` leaves it 0. `data=` is hex, or `#n` for n bytes of a pattern. A
// packet in brackets is quoted by the ICMP error before it; `cut=n` there keeps only n bytes behind its IP headers;
// `ext=hex` behind the bracket appends an RFC 4884 structure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock::path {

using Octets = std::vector<std::uint8_t>;

struct BuiltPacket {
  std::string error;  // empty: fine
  Octets bytes;
  std::vector<std::pair<std::string, std::string>> given;  // fields as written, in order, "layer.name"
};

// `values`: of `$name` in the text.
[[nodiscard]] BuiltPacket build_packet(std::string_view text, const std::map<std::string, std::string>& values = {});

// Field by field, outermost first: ("ip4.src", "1.2.3.4"), ... Malformed rests come as ("rest", hex).
using Fields = std::vector<std::pair<std::string, std::string>>;
[[nodiscard]] Fields describe_packet(const Octets& bytes);
[[nodiscard]] std::string text_of(const Fields& fields);

// Compares `actual` with the packet `expected` describes. `name=*` matches anything; `name=$x` binds x in `values` when
// it is not bound yet; an ip4 id that is not given matches anything. Returns the differences, one a line; empty: equal.
[[nodiscard]] std::string compare_packet(std::string_view expected, const Octets& actual,
                                         std::map<std::string, std::string>& values);

}  // namespace penstock::path
