// The tables of RFC 7915 §4.2 and §5.2: ICMP error types and codes, pointers, and MTUs across families.
#pragma once

#include <cstdint>
#include <optional>

namespace penstock::nat {

[[nodiscard]] bool is_icmp_error(std::uint8_t type, bool v6);

struct IcmpErrorFields {
  std::uint8_t type = 0;
  std::uint8_t code = 0;
  std::uint32_t rest = 0;  // bytes 4-7 without the RFC 4884 length: pointer (Parameter Problem) or MTU, as on the wire
};

// Figures that a Packet Too Big / Fragmentation Needed needs (RFC 7915 §4.2, §5.2).
struct MtuContext {
  std::uint16_t mtu_v4 = 1500;  // of our next hop in either family
  std::uint16_t mtu_v6 = 1500;
  std::uint16_t quoted_length = 0;      // total length field of the quoted packet: for RFC 1191 plateaus
  bool quoted_fragment_header = false;  // the quoted IPv6 packet carries one: 28 instead of 20
};

// nullopt: must be dropped.
[[nodiscard]] std::optional<IcmpErrorFields> icmp_error_4to6(const IcmpErrorFields& from, const MtuContext& context);
[[nodiscard]] std::optional<IcmpErrorFields> icmp_error_6to4(const IcmpErrorFields& from, const MtuContext& context);

// RFC 1191 §7: the greatest plateau below `length`, at least 68.
[[nodiscard]] std::uint16_t mtu_plateau(std::uint16_t length);

}  // namespace penstock::nat
