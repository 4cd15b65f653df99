// The short way for packets of existing flows: plain headers, read and rewritten in place.
//
// Theory of operation. Nearly every packet is an unfragmented TCP or UDP packet without IP options or extension
// headers, of a flow that exists, may go on, and changes nothing by this packet. The translator looks at a burst in
// three steps (burst.cc): read the plain headers and hash the keys while the index is fetched; fetch the records; then
// check and rewrite each. Whatever is not plain, not found or not fit goes the whole way (up.cc, down.cc), packet by
// packet and in its place in the order. So this file decides nothing differently: it may only decline. What it writes
// is what translate.h would write, byte by byte (tests/unit/nat/fast_path_test.cc compares them).
//
// Checksums are adjusted by differences that were worked out when the flow was opened (RFC 1624), so a wrong transport
// checksum stays wrong; IPv4 header checksums are verified here. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <cstring>

#include "dataplane/core/base/address_words.h"
#include "dataplane/core/flow/record.h"
#include "dataplane/core/nat/tcp_state.h"
#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/words.h"

namespace penstock::nat {

// The two directions of a burst, read. False: not plain (or not well-formed, or TTL used up, or a UDP checksum of
// zero). `key.peer` is not filled.
[[nodiscard]] inline bool read_plain(const Packet& packet, flow::InsideKey& key);
[[nodiscard]] inline bool read_plain(const Packet& packet, flow::OutsideKey& key);

// Works the differences of a new flow out, or of one whose remote end or port of ours has changed: up_delta,
// down_delta, up_header, down_header. `source`: the address of ours that record.source_address stands for.
void prepare_rewrite(flow::FlowRecord& record, const IpAddress& source);

// Whether a TCP segment with these flags leaves a session in `state` as it is, and proves that it is alive.
[[nodiscard]] inline bool tcp_is_plain(std::uint8_t state, std::uint8_t flags) {
  constexpr unsigned kChanging = tcp_flag::syn | tcp_flag::fin | tcp_flag::rst;
  constexpr unsigned kLasting = 1U << static_cast<unsigned>(TcpState::established) |
                                1U << static_cast<unsigned>(TcpState::fin_inside) |
                                1U << static_cast<unsigned>(TcpState::fin_outside);
  return ((kLasting >> state & 1) & unsigned{(flags & kChanging) == 0}) != 0;
}

// Length after translation, for a packet that read_plain took.
[[nodiscard]] inline std::uint16_t plain_translated_length(const Packet& packet, bool from6, bool to6) {
  return static_cast<std::uint16_t>(packet.length + (to6 ? 20 : 0) - (from6 ? 20 : 0));
}

// RFC 7915 §4.1: without DF an IPv4 packet is cut for the narrowest way in IPv6.
[[nodiscard]] inline bool is_cut(const Packet& packet, std::uint16_t translated_length, std::uint16_t lowest_ipv6_mtu) {
  constexpr std::uint8_t kDontFragment = kIpv4DontFragment >> 8;
  return translated_length > lowest_ipv6_mtu && (packet.data[6] & kDontFragment) == 0;
}

// Translates a packet that read_plain took and that belongs to the flow. `identification`: for IPv4 headers that get a
// new one. `keep_identification`: within IPv4. False: no headroom (the packet is unchanged).
[[nodiscard]] inline bool rewrite_up(Packet& packet, const flow::FlowRecord& record, const IpAddress& source,
                                     std::uint16_t identification, bool keep_identification);
[[nodiscard]] inline bool rewrite_down(Packet& packet, const flow::FlowRecord& record, std::uint16_t identification);

// From here on the inside: inline, since a call per packet and step would cost as much as the step.
namespace plain {

inline constexpr std::size_t kTcpChecksum = 16;
inline constexpr std::size_t kUdpChecksum = 6;

using words::fold;
using words::header_sum;
using words::load;
using words::one_if;
using words::store;

inline std::uint16_t swapped(std::uint16_t value) {
  return __builtin_bswap16(value);
}

// The last four bytes of an IPv4 address.
inline std::uint32_t v4_word(const IpAddress& address) {
  return load<std::uint32_t>(address.bytes().data() + 12);
}

// Reads both addresses and both ports; returns the protocol, 0 when the packet is not plain.
inline std::uint8_t read_headers(const Packet& packet, IpAddress& source, IpAddress& destination,
                                 std::uint16_t& source_port, std::uint16_t& destination_port) {
  const std::uint8_t* at = packet.data;
  const std::size_t total = packet.length;
  std::size_t header = sizeof(Ipv6Header);
  std::uint8_t protocol = 0;
  if (total < sizeof(Ipv4Header) + sizeof(UdpHeader)) return 0;
  if (at[0] >> 4 == 6) {
    if (total < sizeof(Ipv6Header) + sizeof(UdpHeader)) return 0;
    if (swapped(load<std::uint16_t>(at + 4)) != total - sizeof(Ipv6Header) || at[7] <= 1) return 0;
    protocol = at[6];
    source = AddressWords::of_v6(at + 8).address();
    destination = AddressWords::of_v6(at + 24).address();
  } else {
    constexpr std::uint16_t kFragment = kIpv4MoreFragments | kIpv4OffsetMask;
    if (at[0] != 0x45 || swapped(load<std::uint16_t>(at + 2)) != total || at[8] <= 1) return 0;
    if ((swapped(load<std::uint16_t>(at + 6)) & kFragment) != 0) return 0;
    if (fold(header_sum(at)) != 0xffff) return 0;
    protocol = at[9];
    header = sizeof(Ipv4Header);
    source = AddressWords::of_v4(at + 12).address();
    destination = AddressWords::of_v4(at + 16).address();
  }
  // TCP and UDP take turns as they like, and a branch between them would be guessed wrong half of the time: so both are
  // judged with the same steps, by TCP's data offset or UDP's length and checksum.
  const std::uint32_t tcp = one_if(protocol == ip_protocol::tcp), udp = one_if(protocol == ip_protocol::udp);
  if ((tcp | udp) == 0) return 0;
  const std::uint8_t* transport = at + header;
  const std::size_t length = total - header;
  const std::size_t least = sizeof(UdpHeader) + (sizeof(TcpHeader) - sizeof(UdpHeader)) * tcp;
  if (length < least) return 0;
  const std::uint32_t field = load<std::uint16_t>(transport + 4 + std::size_t{8} * tcp);
  const std::uint32_t only_tcp = 0 - tcp;
  const std::uint32_t claimed = ((field >> 2 & 0x3c) & only_tcp) | (__builtin_bswap32(field) >> 16 & ~only_tcp);
  if (claimed < least || claimed > length) return 0;
  if ((load<std::uint16_t>(transport + kUdpChecksum) | tcp) == 0) return 0;
  source_port = swapped(load<std::uint16_t>(transport));
  destination_port = swapped(load<std::uint16_t>(transport + 2));
  return protocol;
}

// New ports and the adjusted checksum.
inline void rewrite_transport(std::uint8_t* transport, std::uint8_t protocol, std::uint16_t source_port,
                              std::uint16_t destination_port, std::uint16_t delta) {
  store<std::uint32_t>(transport, std::uint32_t{swapped(destination_port)} << 16 | swapped(source_port));
  const std::uint32_t udp = one_if(protocol == ip_protocol::udp);  // no branch: see read_headers
  std::uint8_t* at = transport + kTcpChecksum - (kTcpChecksum - kUdpChecksum) * udp;
  const std::uint32_t sum = std::uint32_t{static_cast<std::uint16_t>(~load<std::uint16_t>(at))} + delta;
  const std::uint32_t checksum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
  const std::uint32_t none = udp & std::uint32_t{checksum == 0};  // which UDP writes as all ones
  store(at, static_cast<std::uint16_t>(checksum | (0 - none)));
}

inline void rewrite_ipv6(std::uint8_t* at, const IpAddress& source, const IpAddress& destination) {
  --at[7];
  store(at + 8, source.bytes());
  store(at + 24, destination.bytes());
}

// Within IPv4: TTL, identification and addresses change; the checksum is right before and after.
inline void rewrite_ipv4(std::uint8_t* at, const IpAddress& source, const IpAddress& destination,
                         std::uint16_t addresses, const std::uint16_t* identification) {
  const auto third = load<std::uint32_t>(at + 8);  // TTL, protocol, checksum
  // The TTL is the low byte of its word: one less.
  ChecksumSum sum = ChecksumSum{static_cast<std::uint16_t>(~(third >> 16))} + addresses + 0xfffe;
  if (identification != nullptr) {
    const std::uint16_t value = swapped(*identification);
    sum += std::uint32_t{static_cast<std::uint16_t>(~load<std::uint16_t>(at + 4))} + value;
    store(at + 4, value);
  }
  const auto checksum = static_cast<std::uint16_t>(~fold(sum));
  store(at + 8, ((third & 0xffff) - 1) | std::uint32_t{checksum} << 16);
  store(at + 12, std::uint64_t{v4_word(destination)} << 32 | v4_word(source));
}

// RFC 7915 §5.1: from a plain IPv6 header. DF is set for packets that no IPv4 router would expect to have to cut.
inline void to_ipv4(Packet& packet, const IpAddress& source, const IpAddress& destination, std::uint16_t addresses,
                    std::uint16_t identification) {
  constexpr std::uint16_t kShrink = sizeof(Ipv6Header) - sizeof(Ipv4Header);
  const auto six = load<std::uint64_t>(packet.data);  // version to hop limit
  const std::uint32_t tos = __builtin_bswap32(static_cast<std::uint32_t>(six)) >> 20 & 0xff;
  packet.pull(kShrink);
  std::uint8_t* at = packet.data;
  const bool dont_fragment = packet.length > kIpv6MinimumMtu - kShrink;
  // In 32 bits from the start: gcc 12 keeps 16 of them in memory and reads 32 back, which waits for the store.
  const std::uint32_t first = 0x45U | tos << 8 | __builtin_bswap32(packet.length);
  const std::uint32_t second =
      __builtin_bswap32(std::uint32_t{identification} << 16 | (dont_fragment ? std::uint32_t{kIpv4DontFragment} : 0U));
  const auto third = static_cast<std::uint32_t>(((six >> 56) - 1) | (six >> 48 & 0xff) << 8);
  const auto checksum = static_cast<std::uint16_t>(~fold(ChecksumSum{first} + second + third + addresses));
  store(at, std::uint64_t{second} << 32 | first);
  store(at + 8, std::uint64_t{v4_word(source)} << 32 | std::uint32_t{checksum} << 16 | third);
  store(at + 16, v4_word(destination));
}

// RFC 7915 §4.1: from a plain IPv4 header.
inline bool to_ipv6(Packet& packet, const IpAddress& source, const IpAddress& destination) {
  const std::uint8_t* four = packet.data;
  const std::uint32_t tos = four[1];
  const std::uint64_t protocol = four[9];
  const std::uint64_t hop_limit = four[8] - 1U;
  const auto payload = static_cast<std::uint16_t>(packet.length - sizeof(Ipv4Header));
  if (!packet.push(sizeof(Ipv6Header) - sizeof(Ipv4Header))) return false;
  std::uint8_t* at = packet.data;
  store(at, std::uint64_t{__builtin_bswap32(6U << 28 | tos << 20)} | std::uint64_t{swapped(payload)} << 32 |
                protocol << 48 | hop_limit << 56);
  store(at + 8, source.bytes());
  store(at + 24, destination.bytes());
  return true;
}

// What the parser would have found out about the packet as it is now.
inline void describe(Packet& packet, std::uint8_t protocol, bool v6) {
  constexpr unsigned kParsed = packet_flag::ip6 | packet_flag::fragment | packet_flag::later_fragment;
  packet.l4_offset = v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  packet.l4_protocol = protocol;
  packet.flags = static_cast<std::uint8_t>((packet.flags & ~kParsed) | (v6 ? packet_flag::ip6 : 0U));
}

}  // namespace plain

inline bool read_plain(const Packet& packet, flow::InsideKey& key) {
  key.protocol = plain::read_headers(packet, key.source, key.destination, key.source_port, key.destination_port);
  return key.protocol != 0;
}

inline bool read_plain(const Packet& packet, flow::OutsideKey& key) {
  key.protocol = plain::read_headers(packet, key.remote, key.local, key.remote_port, key.local_port);
  return key.protocol != 0;
}

inline bool rewrite_up(Packet& packet, const flow::FlowRecord& record, const IpAddress& source,
                       std::uint16_t identification, bool keep_identification) {
  switch (record.translation) {
    case flow::Translation::nat64:
      plain::to_ipv4(packet, source, record.remote, record.up_header, identification);
      break;
    case flow::Translation::nat46:
      if (!plain::to_ipv6(packet, source, record.remote)) return false;
      break;
    case flow::Translation::nat44:
      plain::rewrite_ipv4(packet.data, source, record.remote, record.up_header,
                   keep_identification ? nullptr : &identification);
      break;
    case flow::Translation::nat66:
      plain::rewrite_ipv6(packet.data, source, record.remote);
      break;
  }
  plain::describe(packet, record.protocol, flow::outside_is_v6(record.translation));
  plain::rewrite_transport(packet.data + packet.l4_offset, record.protocol, record.source_port, record.remote_port,
                    record.up_delta);
  return true;
}

inline bool rewrite_down(Packet& packet, const flow::FlowRecord& record, std::uint16_t identification) {
  switch (record.translation) {
    case flow::Translation::nat64:
      if (!plain::to_ipv6(packet, record.inside_destination, record.inside_source)) return false;
      break;
    case flow::Translation::nat46:
      plain::to_ipv4(packet, record.inside_destination, record.inside_source, record.down_header, identification);
      break;
    case flow::Translation::nat44:
      plain::rewrite_ipv4(packet.data, record.inside_destination, record.inside_source, record.down_header, nullptr);
      break;
    case flow::Translation::nat66:
      plain::rewrite_ipv6(packet.data, record.inside_destination, record.inside_source);
      break;
  }
  plain::describe(packet, record.protocol, flow::inside_is_v6(record.translation));
  plain::rewrite_transport(packet.data + packet.l4_offset, record.protocol, record.inside_destination_port,
                    record.inside_source_port, record.down_delta);
  return true;
}

}  // namespace penstock::nat
