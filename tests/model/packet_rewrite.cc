#include "tests/model/packet_rewrite.h"

#include <algorithm>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "tests/model/packet_nat.h"

namespace penstock::model {
namespace {

constexpr std::uint8_t kHopLimit = 64;
constexpr std::size_t kLongestError4 = 576;   // RFC 1812 §4.3.2.3
constexpr std::size_t kLongestError6 = 1280;  // RFC 4443 §2.4 (c)

std::vector<std::uint8_t> ip_packet(const IpAddress& from, const IpAddress& to, std::uint8_t protocol,
                                    const std::vector<std::uint8_t>& payload) {
  std::vector<std::uint8_t> out;
  if (from.is_v4()) {
    out.resize(sizeof(Ipv4Header));
    auto* header = view_as<Ipv4Header>(MutableBytes{out});
    header->version_ihl = 0x45;
    header->total_length = be16::from_host(static_cast<std::uint16_t>(out.size() + payload.size()));
    header->ttl = kHopLimit;
    header->protocol = protocol;
    std::copy_n(from.wire().begin(), 4, header->source.begin());
    std::copy_n(to.wire().begin(), 4, header->destination.begin());
    header->checksum = checksum_finish(checksum_add(0, out));
  } else {
    out.resize(sizeof(Ipv6Header));
    auto* header = view_as<Ipv6Header>(MutableBytes{out});
    header->version_class_flow = be32::from_host(0x60000000U);
    header->payload_length = be16::from_host(static_cast<std::uint16_t>(payload.size()));
    header->next_header = protocol;
    header->hop_limit = kHopLimit;
    header->source = from.bytes();
    header->destination = to.bytes();
  }
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

MutableBytes field(MutableBytes packet, std::size_t at, std::size_t size) {
  return packet.size() >= at + size ? packet.subspan(at, size) : MutableBytes{};
}

void put(MutableBytes at, std::uint16_t value) {
  at[0] = static_cast<std::uint8_t>(value >> 8);
  at[1] = static_cast<std::uint8_t>(value);
}

be16 load(Bytes at) {
  return *view_as<be16>(at);
}
void store(MutableBytes at, be16 value) {
  *view_as<be16>(at) = value;
}

// Where the transport's checksum stands, from its start.
std::optional<std::size_t> checksum_offset(std::uint8_t protocol) {
  switch (protocol) {
    case ip_protocol::udp:
      return 6;
    case ip_protocol::tcp:
      return 16;
    case ip_protocol::icmp:
    case ip_protocol::icmpv6:
      return 2;
    default:
      return std::nullopt;
  }
}

}  // namespace

void set_ttl(MutableBytes packet, std::uint8_t ttl) {
  if (packet[0] >> 4 == 6) {
    view_as<Ipv6Header>(packet)->hop_limit = ttl;
    return;
  }
  auto* header = view_as<Ipv4Header>(packet);
  const MutableBytes word = packet.subspan(8, 2);  // TTL and protocol
  const ChecksumSum before = checksum_add(0, word);
  header->ttl = ttl;
  header->checksum = checksum_adjust(header->checksum, before, checksum_add(0, word));
}

void rewrite(MutableBytes packet, const IpView& view, const IpAddress& source, const IpAddress& destination,
             std::optional<std::uint16_t> source_port, std::optional<std::uint16_t> destination_port,
             std::optional<std::uint16_t> identifier) {
  const std::size_t size = view.v6() ? 16 : 4;
  const MutableBytes addresses = packet.subspan(view.v6() ? 8 : 12, 2 * size);
  const ChecksumSum before = checksum_add(0, addresses);
  std::copy(source.wire().begin(), source.wire().end(), addresses.begin());
  std::copy(destination.wire().begin(), destination.wire().end(),
            addresses.begin() + static_cast<std::ptrdiff_t>(size));
  const ChecksumSum after = checksum_add(0, addresses);
  if (!view.v6()) {
    auto* header = view_as<Ipv4Header>(packet);
    header->checksum = checksum_adjust(header->checksum, before, after);
  }
  if (view.later_fragment()) return;

  ChecksumSum removed = view.protocol == ip_protocol::icmp ? 0 : before;  // ICMP over IPv4 has no pseudo-header
  ChecksumSum added = view.protocol == ip_protocol::icmp ? 0 : after;
  const auto change = [&](std::size_t at, std::optional<std::uint16_t> value) {
    const MutableBytes word = field(packet, view.header_length + at, 2);
    if (!value || word.empty()) return;
    removed += checksum_add(0, word);
    put(word, *value);
    added += checksum_add(0, word);
  };
  change(0, source_port);
  change(2, destination_port);
  change(4, identifier);
  const auto offset = checksum_offset(view.protocol);
  const MutableBytes sum = offset ? field(packet, view.header_length + *offset, 2) : MutableBytes{};
  if (sum.empty()) return;
  const be16 old = load(sum);
  if (view.protocol == ip_protocol::udp && old == be16{}) return;
  const be16 adjusted = checksum_adjust(old, removed, added);
  store(sum, view.protocol == ip_protocol::udp && adjusted == be16{} ? be16::from_host(0xffff) : adjusted);
}

void rewrite_error(MutableBytes packet, const IpView& view, const IpView& quoted, const IpAddress& source,
                   const IpAddress& destination, const Endpoint& quoted_source, const Endpoint& quoted_destination,
                   bool quotes_echo) {
  // The ICMP checksum covers the quotation: it changes by what changes there.
  const MutableBytes body = packet.subspan(view.header_length + sizeof(IcmpHeader));
  const MutableBytes sum = packet.subspan(view.header_length + 2U, 2);
  const ChecksumSum before = checksum_add(0, body);
  rewrite(body, quoted, quoted_source.address, quoted_destination.address,
          quotes_echo ? std::nullopt : std::optional{quoted_source.port},
          quotes_echo ? std::nullopt : std::optional{quoted_destination.port},
          quotes_echo ? std::optional{quoted_source.port != 0 ? quoted_source.port : quoted_destination.port}
                      : std::nullopt);
  store(sum, checksum_adjust(load(sum), before, checksum_add(0, body)));
  rewrite(packet, view, source, destination, {}, {}, {});
}

std::vector<std::uint8_t> icmp_error(Bytes packet, const IpAddress& from, std::uint8_t type, std::uint8_t code,
                                     std::uint32_t mtu) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none || parse.view.later_fragment() || from.is_unspecified()) return {};
  const IpView& view = parse.view;
  const IpAddress to = ip_source(packet, view), about = ip_destination(packet, view);
  if (from.is_v4() != to.is_v4() || source_is_invalid(to) || source_is_invalid(about)) return {};
  const bool icmp = view.protocol == ip_protocol::icmp || view.protocol == ip_protocol::icmpv6;
  if (icmp && packet.size() > view.header_length) {
    const std::uint8_t quoted = packet[view.header_length];
    const bool query = view.v6() ? quoted >= 128
                                 : quoted == icmp4::echo || quoted == icmp4::echo_reply || quoted == icmp4::timestamp ||
                                       quoted == icmp4::timestamp_reply;
    if (!query) return {};
  }
  const std::size_t header = view.v6() ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
  const std::size_t room = (view.v6() ? kLongestError6 : kLongestError4) - header - sizeof(IcmpHeader);
  std::vector<std::uint8_t> body(sizeof(IcmpHeader));
  auto* fields = view_as<IcmpHeader>(MutableBytes{body});
  fields->type = type;
  fields->code = code;
  fields->field1 = be16::from_host(static_cast<std::uint16_t>(mtu >> 16));
  fields->field2 = be16::from_host(static_cast<std::uint16_t>(mtu));
  const Bytes quote = packet.first(std::min<std::size_t>(view.total_length, room));
  body.insert(body.end(), quote.begin(), quote.end());
  const std::uint8_t protocol = view.v6() ? ip_protocol::icmpv6 : ip_protocol::icmp;
  ChecksumSum sum = checksum_add(0, body);
  if (view.v6()) sum += checksum_pseudo_header(from, to, protocol, static_cast<std::uint32_t>(body.size()));
  view_as<IcmpHeader>(MutableBytes{body})->checksum = checksum_finish(sum);
  return ip_packet(from, to, protocol, body);
}

std::vector<std::uint8_t> too_big_error(Bytes packet, const IpAddress& from, std::uint32_t mtu) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none) return {};
  constexpr std::uint8_t kFragmentationNeeded = 4;
  if (parse.view.v6()) return icmp_error(packet, from, icmp6::packet_too_big, 0, mtu);
  if (!parse.view.dont_fragment) return {};
  return icmp_error(packet, from, icmp4::unreachable, kFragmentationNeeded, mtu);
}

std::vector<std::uint8_t> tcp_reset(Bytes packet, const IpView& view) {
  const auto* tcp = view_as<TcpHeader>(packet.subspan(view.header_length));
  if (tcp == nullptr || (tcp->flags & tcp_flag::rst) != 0) return {};
  std::vector<std::uint8_t> body(sizeof(TcpHeader));
  auto* reset = view_as<TcpHeader>(MutableBytes{body});
  reset->source_port = tcp->destination_port;
  reset->destination_port = tcp->source_port;
  reset->offset_reserved = 0x50;
  reset->flags = tcp_flag::rst;
  if ((tcp->flags & tcp_flag::ack) != 0) {
    reset->sequence = tcp->acknowledgement;
  } else {
    const std::uint32_t length = view.payload_length() - std::min<std::uint32_t>(view.payload_length(),
                                                                                 tcp->header_length());
    const bool counts = (tcp->flags & (tcp_flag::syn | tcp_flag::fin)) != 0;
    reset->acknowledgement = be32::from_host(tcp->sequence.host() + length + (counts ? 1 : 0));
    reset->flags |= tcp_flag::ack;
  }
  const IpAddress from = ip_destination(packet, view), to = ip_source(packet, view);
  reset->checksum = checksum_finish(
      checksum_add(checksum_pseudo_header(from, to, ip_protocol::tcp, static_cast<std::uint32_t>(body.size())), body));
  return ip_packet(from, to, ip_protocol::tcp, body);
}

}  // namespace penstock::model
