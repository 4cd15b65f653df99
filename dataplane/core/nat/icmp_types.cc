#include "dataplane/core/nat/icmp_types.h"

#include <algorithm>
#include <array>

#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint8_t kNone = 0xff;

// RFC 7915 §4.2, figure 3: byte of the IPv4 header that is wrong -> byte of the IPv6 header.
constexpr std::array<std::uint8_t, 20> kPointer4to6 = {
    0,     1,     4, 4, kNone, kNone, kNone, kNone, 7,  6,   // version .. protocol
    kNone, kNone, 8, 8, 8,     8,     24,    24,    24, 24,  // checksum, source, destination
};

// RFC 7915 §5.2, figure 6; behind 8 come the addresses.
constexpr std::array<std::uint8_t, 8> kPointer6to4 = {0, 1, kNone, kNone, 2, 2, 9, 8};

}  // namespace

bool is_icmp_error(std::uint8_t type, bool v6) {
  if (v6) return type < 128;  // RFC 4443 §2.1
  return type == icmp4::unreachable || type == icmp4::source_quench || type == icmp4::redirect ||
         type == icmp4::time_exceeded || type == icmp4::parameter_problem;
}

std::uint16_t mtu_plateau(std::uint16_t length) {
  constexpr std::array<std::uint16_t, 11> kPlateaus = {65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68};
  for (const std::uint16_t plateau : kPlateaus)
    if (plateau < length) return plateau;
  return 68;
}

std::optional<IcmpErrorFields> icmp_error_4to6(const IcmpErrorFields& from, const MtuContext& context) {
  switch (from.type) {
    case icmp4::unreachable:
      switch (from.code) {
        case 0:   // net
        case 1:   // host
        case 5:   // source route failed
        case 6:   // net unknown
        case 7:   // host unknown
        case 8:   // source host isolated
        case 11:  // net, for this type of service
        case 12:  // host, for this type of service
          return IcmpErrorFields{icmp6::unreachable, 0, 0};
        case 2:  // protocol: the next header field, at byte 6, is what is wrong
          return IcmpErrorFields{icmp6::parameter_problem, 1, 6};
        case 3:  // port
          return IcmpErrorFields{icmp6::unreachable, 4, 0};
        case 4: {  // fragmentation needed
          std::uint32_t mtu = from.rest & 0xffffU;
          if (mtu == 0) mtu = mtu_plateau(context.quoted_length);  // a router older than RFC 1191
          mtu = std::min({mtu + 20, std::uint32_t{context.mtu_v6}, context.mtu_v4 + std::uint32_t{20}});
          return IcmpErrorFields{icmp6::packet_too_big, 0, std::max<std::uint32_t>(mtu, kIpv6MinimumMtu)};
        }
        case 9:   // net prohibited
        case 10:  // host prohibited
        case 13:  // administratively prohibited
        case 15:  // precedence cutoff
          return IcmpErrorFields{icmp6::unreachable, 1, 0};
        default:
          return std::nullopt;
      }
    case icmp4::time_exceeded:
      return IcmpErrorFields{icmp6::time_exceeded, from.code, 0};
    case icmp4::parameter_problem: {
      const std::uint32_t pointer = from.rest >> 24;
      if (from.code != 0 && from.code != 2) return std::nullopt;
      if (pointer >= kPointer4to6.size() || kPointer4to6[pointer] == kNone) return std::nullopt;
      return IcmpErrorFields{icmp6::parameter_problem, 0, kPointer4to6[pointer]};
    }
    default:
      return std::nullopt;
  }
}

std::optional<IcmpErrorFields> icmp_error_6to4(const IcmpErrorFields& from, const MtuContext& context) {
  switch (from.type) {
    case icmp6::unreachable:
      switch (from.code) {
        case 0:  // no route
        case 2:  // beyond scope
        case 3:  // address
          return IcmpErrorFields{icmp4::unreachable, 1, 0};
        case 1:  // prohibited
          return IcmpErrorFields{icmp4::unreachable, 10, 0};
        case 4:  // port
          return IcmpErrorFields{icmp4::unreachable, 3, 0};
        default:
          return std::nullopt;
      }
    case icmp6::packet_too_big: {
      const std::uint32_t smaller = context.quoted_fragment_header ? 28 : 20;
      std::uint32_t mtu = std::min({from.rest, std::uint32_t{context.mtu_v4} + smaller, std::uint32_t{context.mtu_v6}});
      mtu = mtu > smaller ? mtu - smaller : 0;
      return IcmpErrorFields{icmp4::unreachable, 4, std::clamp<std::uint32_t>(mtu, 68, 0xffff)};
    }
    case icmp6::time_exceeded:
      return IcmpErrorFields{icmp4::time_exceeded, from.code, 0};
    case icmp6::parameter_problem: {
      if (from.code == 1) return IcmpErrorFields{icmp4::unreachable, 2, 0};
      if (from.code != 0) return std::nullopt;
      const std::uint32_t pointer = from.rest;
      if (pointer >= sizeof(Ipv6Header)) return std::nullopt;
      const std::uint8_t to = pointer < kPointer6to4.size() ? kPointer6to4[pointer]
                              : pointer < 24                ? std::uint8_t{12}
                                                            : std::uint8_t{16};
      if (to == kNone) return std::nullopt;
      return IcmpErrorFields{icmp4::parameter_problem, 0, std::uint32_t{to} << 24};
    }
    default:
      return std::nullopt;
  }
}

}  // namespace penstock::nat
