#include "dataplane/core/nat/fast_path.h"

#include <cstring>

#include "dataplane/core/nat/tcp_state.h"
#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::size_t kTcpChecksum = 16;
constexpr std::size_t kUdpChecksum = 6;

template <typename Word>
Word load(const std::uint8_t* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}
template <typename Word>
void store(std::uint8_t* at, Word word) {
  std::memcpy(at, &word, sizeof word);
}

std::uint16_t swapped(std::uint16_t value) {
  return be16::from_host(value).raw();
}

// Sum of an IPv4 header without options: five words.
ChecksumSum header_sum(const std::uint8_t* at) {
  return ChecksumSum{load<std::uint32_t>(at)} + load<std::uint32_t>(at + 4) + load<std::uint32_t>(at + 8) +
         load<std::uint32_t>(at + 12) + load<std::uint32_t>(at + 16);
}

// Reads both addresses and both ports; returns the protocol, 0 when the packet is not plain.
std::uint8_t read_headers(const Packet& packet, IpAddress& source, IpAddress& destination, std::uint16_t& source_port,
                          std::uint16_t& destination_port) {
  const std::uint8_t* at = packet.data;
  std::size_t header = sizeof(Ipv6Header);
  std::uint8_t protocol = 0;
  if (packet.length < sizeof(Ipv4Header) + sizeof(UdpHeader)) return 0;
  if (at[0] >> 4 == 6) {
    if (packet.length < sizeof(Ipv6Header) + sizeof(UdpHeader)) return 0;
    if (load<be16>(at + 4).host() != packet.length - sizeof(Ipv6Header) || at[7] <= 1) return 0;
    protocol = at[6];
    source = IpAddress::v6(load<std::array<std::uint8_t, 16>>(at + 8));
    destination = IpAddress::v6(load<std::array<std::uint8_t, 16>>(at + 24));
  } else {
    constexpr std::uint16_t kFragment = kIpv4MoreFragments | kIpv4OffsetMask;
    if (at[0] != 0x45 || load<be16>(at + 2).host() != packet.length || at[8] <= 1) return 0;
    if ((load<be16>(at + 6).host() & kFragment) != 0) return 0;
    if (checksum_fold(header_sum(at)) != 0xffff) return 0;
    protocol = at[9];
    header = sizeof(Ipv4Header);
    source = IpAddress::v4(load<std::array<std::uint8_t, 4>>(at + 12));
    destination = IpAddress::v4(load<std::array<std::uint8_t, 4>>(at + 16));
  }
  const std::uint8_t* transport = at + header;
  const std::size_t length = packet.length - header;
  if (protocol == ip_protocol::tcp) {
    if (length < sizeof(TcpHeader)) return 0;
    const std::size_t tcp_header = (transport[12] >> 4) * std::size_t{4};
    if (tcp_header < sizeof(TcpHeader) || tcp_header > length) return 0;
  } else if (protocol == ip_protocol::udp) {
    const std::size_t udp_length = load<be16>(transport + 4).host();
    if (udp_length < sizeof(UdpHeader) || udp_length > length || load<std::uint16_t>(transport + kUdpChecksum) == 0)
      return 0;
  } else {
    return 0;
  }
  source_port = load<be16>(transport).host();
  destination_port = load<be16>(transport + 2).host();
  return protocol;
}

// New ports and the adjusted checksum.
void rewrite_transport(std::uint8_t* transport, std::uint8_t protocol, std::uint16_t source_port,
                       std::uint16_t destination_port, std::uint16_t delta) {
  store<std::uint32_t>(transport, std::uint32_t{swapped(destination_port)} << 16 | swapped(source_port));
  std::uint8_t* at = transport + (protocol == ip_protocol::tcp ? kTcpChecksum : kUdpChecksum);
  const std::uint32_t sum = std::uint32_t{static_cast<std::uint16_t>(~load<std::uint16_t>(at))} + delta;
  auto checksum = static_cast<std::uint16_t>(~((sum & 0xffff) + (sum >> 16)));
  if (checksum == 0 && protocol == ip_protocol::udp) checksum = 0xffff;
  store(at, checksum);
}

void rewrite_ipv6(std::uint8_t* at, const IpAddress& source, const IpAddress& destination) {
  --at[7];
  store(at + 8, source.bytes());
  store(at + 24, destination.bytes());
}

// Within IPv4: TTL, identification and addresses change; the checksum is right before and after.
void rewrite_ipv4(std::uint8_t* at, const IpAddress& source, const IpAddress& destination, std::uint16_t addresses,
                  const std::uint16_t* identification) {
  ChecksumSum sum = static_cast<std::uint16_t>(~load<std::uint16_t>(at + 10));
  sum += addresses;
  const auto ttl_word = load<std::uint16_t>(at + 8);
  --at[8];
  sum += std::uint32_t{static_cast<std::uint16_t>(~ttl_word)} + load<std::uint16_t>(at + 8);
  if (identification != nullptr) {
    const std::uint16_t value = swapped(*identification);
    sum += std::uint32_t{static_cast<std::uint16_t>(~load<std::uint16_t>(at + 4))} + value;
    store(at + 4, value);
  }
  store<std::uint16_t>(at + 10, checksum_finish(sum).raw());
  std::memcpy(at + 12, source.bytes().data() + 12, 4);
  std::memcpy(at + 16, destination.bytes().data() + 12, 4);
}

// RFC 7915 §5.1: from a plain IPv6 header. DF is set for packets that no IPv4 router would expect to have to cut.
void to_ipv4(Packet& packet, const IpAddress& source, const IpAddress& destination, std::uint16_t addresses,
             std::uint16_t identification) {
  const std::uint8_t* six = packet.data;
  const auto tos = static_cast<std::uint8_t>(load<be16>(six).host() >> 4);
  const std::uint8_t protocol = six[6];
  const auto ttl = static_cast<std::uint8_t>(six[7] - 1);
  constexpr std::uint16_t kShrink = sizeof(Ipv6Header) - sizeof(Ipv4Header);
  packet.pull(kShrink);
  std::uint8_t* at = packet.data;
  const bool dont_fragment = packet.length > kIpv6MinimumMtu - kShrink;
  const std::uint32_t first = 0x45U | std::uint32_t{tos} << 8 | std::uint32_t{swapped(packet.length)} << 16;
  const std::uint32_t second =
      swapped(identification) | std::uint32_t{swapped(dont_fragment ? kIpv4DontFragment : std::uint16_t{0})} << 16;
  const std::uint32_t third = std::uint32_t{ttl} | std::uint32_t{protocol} << 8;
  const std::uint16_t checksum = checksum_finish(ChecksumSum{first} + second + third + addresses).raw();
  store(at, first);
  store(at + 4, second);
  store(at + 8, third | std::uint32_t{checksum} << 16);
  std::memcpy(at + 12, source.bytes().data() + 12, 4);
  std::memcpy(at + 16, destination.bytes().data() + 12, 4);
}

// RFC 7915 §4.1: from a plain IPv4 header.
bool to_ipv6(Packet& packet, const IpAddress& source, const IpAddress& destination) {
  const std::uint8_t tos = packet.data[1];
  const std::uint8_t protocol = packet.data[9];
  const auto hop_limit = static_cast<std::uint8_t>(packet.data[8] - 1);
  const auto payload = static_cast<std::uint16_t>(packet.length - sizeof(Ipv4Header));
  if (!packet.push(sizeof(Ipv6Header) - sizeof(Ipv4Header))) return false;
  std::uint8_t* at = packet.data;
  store(at, be32::from_host(6U << 28 | std::uint32_t{tos} << 20));
  store(at + 4, std::uint32_t{swapped(payload)} | std::uint32_t{protocol} << 16 | std::uint32_t{hop_limit} << 24);
  store(at + 8, source.bytes());
  store(at + 24, destination.bytes());
  return true;
}

// What the parser would have found out about the packet as it is now.
void describe(Packet& packet, std::uint8_t protocol, bool v6) {
  constexpr unsigned kParsed = packet_flag::ip6 | packet_flag::fragment | packet_flag::later_fragment;
  packet.l4_offset = v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  packet.l4_protocol = protocol;
  packet.flags = static_cast<std::uint8_t>((packet.flags & ~kParsed) | (v6 ? packet_flag::ip6 : 0U));
}

ChecksumSum negative(ChecksumSum sum) {
  return static_cast<std::uint16_t>(~checksum_fold(sum));
}

ChecksumSum sum_of(const IpAddress& a, const IpAddress& b) {
  return checksum_add(checksum_add(0, a.wire()), b.wire());
}

// What `header` of a direction is: see FlowRecord::up_header.
std::uint16_t header_difference(const Tuple& from, const Tuple& to) {
  if (to.destination.is_v6()) return 0;
  ChecksumSum sum = sum_of(to.source, to.destination);
  if (from.destination.is_v4()) sum += negative(sum_of(from.source, from.destination));
  return checksum_fold(sum);
}

Tuple reversed(const Tuple& tuple) {
  return {tuple.destination, tuple.source, tuple.destination_port, tuple.source_port};
}

}  // namespace

bool read_plain(const Packet& packet, flow::InsideKey& key) {
  key.protocol = read_headers(packet, key.source, key.destination, key.source_port, key.destination_port);
  return key.protocol != 0;
}

bool read_plain(const Packet& packet, flow::OutsideKey& key) {
  key.protocol = read_headers(packet, key.remote, key.local, key.remote_port, key.local_port);
  return key.protocol != 0;
}

void prepare_rewrite(flow::FlowRecord& record, const IpAddress& source) {
  const Tuple inside{record.inside_source, record.inside_destination, record.inside_source_port,
                     record.inside_destination_port};
  const Tuple outside{source, record.remote, record.source_port, record.remote_port};
  record.up_delta = transport_delta(inside, outside, record.protocol, true);
  record.down_delta = transport_delta(reversed(outside), reversed(inside), record.protocol, true);
  record.up_header = header_difference(inside, outside);
  record.down_header = header_difference(reversed(outside), reversed(inside));
}

bool tcp_is_plain(std::uint8_t state, std::uint8_t flags) {
  constexpr unsigned kChanging = tcp_flag::syn | tcp_flag::fin | tcp_flag::rst;
  const auto of = static_cast<TcpState>(state);
  return (flags & kChanging) == 0 &&
         (of == TcpState::established || of == TcpState::fin_inside || of == TcpState::fin_outside);
}

bool rewrite_up(Packet& packet, const flow::FlowRecord& record, const IpAddress& source, std::uint16_t identification,
                bool keep_identification) {
  switch (record.translation) {
    case flow::Translation::nat64:
      to_ipv4(packet, source, record.remote, record.up_header, identification);
      break;
    case flow::Translation::nat46:
      if (!to_ipv6(packet, source, record.remote)) return false;
      break;
    case flow::Translation::nat44:
      rewrite_ipv4(packet.data, source, record.remote, record.up_header,
                   keep_identification ? nullptr : &identification);
      break;
    case flow::Translation::nat66:
      rewrite_ipv6(packet.data, source, record.remote);
      break;
  }
  describe(packet, record.protocol, flow::outside_is_v6(record.translation));
  rewrite_transport(packet.data + packet.l4_offset, record.protocol, record.source_port, record.remote_port,
                    record.up_delta);
  return true;
}

bool rewrite_down(Packet& packet, const flow::FlowRecord& record, std::uint16_t identification) {
  switch (record.translation) {
    case flow::Translation::nat64:
      if (!to_ipv6(packet, record.inside_destination, record.inside_source)) return false;
      break;
    case flow::Translation::nat46:
      to_ipv4(packet, record.inside_destination, record.inside_source, record.down_header, identification);
      break;
    case flow::Translation::nat44:
      rewrite_ipv4(packet.data, record.inside_destination, record.inside_source, record.down_header, nullptr);
      break;
    case flow::Translation::nat66:
      rewrite_ipv6(packet.data, record.inside_destination, record.inside_source);
      break;
  }
  describe(packet, record.protocol, flow::inside_is_v6(record.translation));
  rewrite_transport(packet.data + packet.l4_offset, record.protocol, record.inside_destination_port,
                    record.inside_source_port, record.down_delta);
  return true;
}

}  // namespace penstock::nat
