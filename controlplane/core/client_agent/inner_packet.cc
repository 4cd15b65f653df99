#include "controlplane/core/client_agent/inner_packet.h"

#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"

namespace penstock::client {
namespace {

class Fnv {
 public:
  void add(Bytes bytes) {
    for (const std::uint8_t byte : bytes) value_ = (value_ ^ byte) * 0x100000001b3ULL;
  }
  void add(std::uint64_t number) {
    std::uint8_t bytes[8];
    store_le(bytes, number);
    add(Bytes{bytes});
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

// Fills ports and ICMP facts; false when a header that should be there is cut short.
bool parse_transport(Bytes l4, InnerPacket& out) {
  if (out.later_fragment) return true;
  switch (out.protocol) {
    case ip_protocol::tcp: {
      const auto* tcp = view_as<TcpHeader>(l4);
      if (tcp == nullptr || tcp->header_length() < sizeof(TcpHeader)) return false;
      out.source_port = tcp->source_port.host();
      out.destination_port = tcp->destination_port.host();
      return true;
    }
    case ip_protocol::udp: {
      const auto* udp = view_as<UdpHeader>(l4);
      if (udp == nullptr) return false;
      out.source_port = udp->source_port.host();
      out.destination_port = udp->destination_port.host();
      return true;
    }
    case ip_protocol::icmp:
    case ip_protocol::icmpv6: {
      const auto* icmp = view_as<IcmpHeader>(l4);
      if (icmp == nullptr) return false;
      if (out.protocol == ip_protocol::icmp) {
        out.icmp_echo = icmp->type == icmp4::echo || icmp->type == icmp4::echo_reply;
        out.icmp_error = icmp->type == icmp4::unreachable || icmp->type == icmp4::source_quench ||
                         icmp->type == icmp4::redirect || icmp->type == icmp4::time_exceeded ||
                         icmp->type == icmp4::parameter_problem;
      } else {
        out.icmp_echo = icmp->type == icmp6::echo || icmp->type == icmp6::echo_reply;
        out.icmp_error = icmp->type < 128;
      }
      if (out.icmp_echo) out.source_port = icmp->field1.host();
      return true;
    }
    default:
      return true;
  }
}

}  // namespace

std::optional<InnerPacket> parse_inner(Bytes packet) {
  const IpParse parsed = parse_ip(packet);
  if (parsed.reason != DropReason::none) return std::nullopt;
  const IpView& view = parsed.view;
  InnerPacket out;
  out.source = ip_source(packet, view);
  out.destination = ip_destination(packet, view);
  out.protocol = view.protocol;
  out.length = view.total_length;
  out.l4_offset = view.header_length;
  out.fragment = view.fragment();
  out.later_fragment = view.later_fragment();
  out.fragment_id = view.identification;
  if (!parse_transport(packet.subspan(view.header_length, view.payload_length()), out)) return std::nullopt;
  return out;
}

bool is_link_scoped(const IpAddress& address) {
  if (address.is_unspecified()) return true;
  if (address.is_v4()) {
    const std::uint32_t value = address.v4_value();
    return value >> 24 == 127 || value >> 24 == 0 || value >> 16 == 0xa9fe || value >> 28 == 0xe || value == 0xffffffff;
  }
  const auto& bytes = address.bytes();
  static constexpr IpAddress kLoopback = IpAddress::v6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
  return bytes[0] == 0xff || (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80) || address == kLoopback;
}

std::uint64_t retransmission_digest(const InnerPacket& info, Bytes packet) {
  Fnv hash;
  hash.add(Bytes{info.source.bytes()});
  hash.add(Bytes{info.destination.bytes()});
  hash.add(std::uint64_t{info.protocol});
  const Bytes l4 = packet.first(info.length).subspan(info.l4_offset);
  if (info.protocol == ip_protocol::tcp && !info.fragment) {
    const auto* tcp = view_as<TcpHeader>(l4);
    const std::size_t header = tcp->header_length();
    hash.add(Bytes{l4.first(8)});  // ports, sequence number
    hash.add(std::uint64_t{tcp->flags});
    hash.add(l4.size() > header ? l4.size() - header : 0);
    return hash.value();
  }
  if (info.fragment) hash.add(std::uint64_t{info.fragment_id} << 1 | 1);
  hash.add(l4);
  return hash.value();
}

}  // namespace penstock::client
