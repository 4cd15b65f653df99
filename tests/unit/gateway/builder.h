// Packets and frames for tests: built with right lengths and checksums, to be spoilt by whoever wants them wrong.
#pragma once

#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"
#include "dataplane/core/packet/ip_parse.h"

namespace penstock::gateway::test {

using Octets = std::vector<std::uint8_t>;

inline IpAddress ip(std::string_view text) {
  return *IpAddress::parse(text);
}

inline Octets operator+(Octets a, const Octets& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Octets text(std::string_view words) {
  return {words.begin(), words.end()};
}

struct IpOptions {
  std::uint8_t ttl = 64;
  std::uint8_t tos = 0;
  bool dont_fragment = true;
  std::uint16_t offset = 0;  // IPv4, bytes
  bool more_fragments = false;
};

inline Octets ip_packet(const IpAddress& from, const IpAddress& to, std::uint8_t protocol, const Octets& payload,
                        const IpOptions& options = {}) {
  Octets out;
  if (from.is_v4()) {
    out.resize(sizeof(Ipv4Header));
    auto* header = reinterpret_cast<Ipv4Header*>(out.data());
    header->version_ihl = 0x45;
    header->tos = options.tos;
    header->total_length = be16::from_host(static_cast<std::uint16_t>(out.size() + payload.size()));
    header->identification = be16::from_host(0x1234);
    header->flags_offset = be16::from_host(
        static_cast<std::uint16_t>((options.dont_fragment ? kIpv4DontFragment : 0) |
                                   (options.more_fragments ? kIpv4MoreFragments : 0) | options.offset / 8));
    header->ttl = options.ttl;
    header->protocol = protocol;
    std::memcpy(header->source.data(), from.wire().data(), 4);
    std::memcpy(header->destination.data(), to.wire().data(), 4);
    header->checksum = checksum_finish(checksum_add(0, out));
  } else {
    out.resize(sizeof(Ipv6Header));
    auto* header = reinterpret_cast<Ipv6Header*>(out.data());
    header->version_class_flow = be32::from_host(0x60000000U | std::uint32_t{options.tos} << 20);
    header->payload_length = be16::from_host(static_cast<std::uint16_t>(payload.size()));
    header->next_header = protocol;
    header->hop_limit = options.ttl;
    header->source = from.bytes();
    header->destination = to.bytes();
  }
  return out + payload;
}

inline Octets udp_packet(const Endpoint& from, const Endpoint& to, const Octets& payload,
                         const IpOptions& options = {}) {
  Octets udp(sizeof(UdpHeader));
  auto* header = reinterpret_cast<UdpHeader*>(udp.data());
  header->source_port = be16::from_host(from.port);
  header->destination_port = be16::from_host(to.port);
  header->length = be16::from_host(static_cast<std::uint16_t>(udp.size() + payload.size()));
  udp = udp + payload;
  const auto length = static_cast<std::uint32_t>(udp.size());
  const be16 sum =
      checksum_finish(checksum_add(checksum_pseudo_header(from.address, to.address, ip_protocol::udp, length), udp));
  reinterpret_cast<UdpHeader*>(udp.data())->checksum = sum == be16{} ? be16::from_host(0xffff) : sum;
  return ip_packet(from.address, to.address, ip_protocol::udp, udp, options);
}

inline Octets tcp_packet(const Endpoint& from, const Endpoint& to, std::uint8_t flags, const IpOptions& options = {}) {
  Octets tcp(sizeof(TcpHeader));
  auto* header = reinterpret_cast<TcpHeader*>(tcp.data());
  header->source_port = be16::from_host(from.port);
  header->destination_port = be16::from_host(to.port);
  header->sequence = be32::from_host(1000);
  header->offset_reserved = 0x50;
  header->flags = flags;
  header->window = be16::from_host(4096);
  header->checksum = checksum_finish(
      checksum_add(checksum_pseudo_header(from.address, to.address, ip_protocol::tcp, sizeof(TcpHeader)), tcp));
  return ip_packet(from.address, to.address, ip_protocol::tcp, tcp, options);
}

inline Octets icmp_packet(const IpAddress& from, const IpAddress& to, std::uint8_t type, std::uint8_t code,
                          std::uint16_t field1, std::uint16_t field2, const Octets& payload = {},
                          const IpOptions& options = {}) {
  Octets icmp(sizeof(IcmpHeader));
  auto* header = reinterpret_cast<IcmpHeader*>(icmp.data());
  header->type = type;
  header->code = code;
  header->field1 = be16::from_host(field1);
  header->field2 = be16::from_host(field2);
  icmp = icmp + payload;
  ChecksumSum sum = checksum_add(0, icmp);
  const std::uint8_t protocol = from.is_v4() ? ip_protocol::icmp : ip_protocol::icmpv6;
  if (!from.is_v4()) sum += checksum_pseudo_header(from, to, protocol, static_cast<std::uint32_t>(icmp.size()));
  reinterpret_cast<IcmpHeader*>(icmp.data())->checksum = checksum_finish(sum);
  return ip_packet(from, to, protocol, icmp, options);
}

inline Octets echo_request(const IpAddress& from, const IpAddress& to, std::uint16_t id = 7, std::uint16_t sequence = 1,
                           const Octets& payload = text("are you there?"), const IpOptions& options = {}) {
  return icmp_packet(from, to, from.is_v4() ? icmp4::echo : icmp6::echo, 0, id, sequence, payload, options);
}

inline Octets ethernet(const MacAddress& from, const MacAddress& to, EtherType type, const Octets& payload,
                       std::uint16_t vlan = 0) {
  Octets out(to.begin(), to.end());
  out.insert(out.end(), from.begin(), from.end());
  const auto word = [&out](std::uint16_t value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8));
    out.push_back(static_cast<std::uint8_t>(value));
  };
  if (vlan != 0) {
    word(static_cast<std::uint16_t>(EtherType::vlan));
    word(vlan);
  }
  word(static_cast<std::uint16_t>(type));
  return out + payload;
}

inline Octets frame(const MacAddress& from, const MacAddress& to, const Octets& packet, std::uint16_t vlan = 0) {
  return ethernet(from, to, packet[0] >> 4 == 6 ? EtherType::ipv6 : EtherType::ipv4, packet, vlan);
}

inline Octets arp(bool request, const IpAddress& sender, const MacAddress& mac, const IpAddress& target,
                  const MacAddress& target_mac = {}) {
  Octets out = {0, 1, 8, 0, 6, 4, 0, static_cast<std::uint8_t>(request ? 1 : 2)};
  out.insert(out.end(), mac.begin(), mac.end());
  out.insert(out.end(), sender.wire().begin(), sender.wire().end());
  out.insert(out.end(), target_mac.begin(), target_mac.end());
  out.insert(out.end(), target.wire().begin(), target.wire().end());
  return out;
}

// type 135 or 136; `flags` of an advertisement in the first byte behind the checksum.
inline Octets discovery(std::uint8_t type, const IpAddress& from, const IpAddress& to, const IpAddress& target,
                        std::uint8_t flags, const Octets& options) {
  Octets payload(target.bytes().begin(), target.bytes().end());
  IpOptions fields;
  fields.ttl = 255;
  return icmp_packet(from, to, type, 0, static_cast<std::uint16_t>(flags << 8), 0, payload + options, fields);
}

inline Octets link_layer_option(std::uint8_t type, const MacAddress& mac) {
  return Octets{type, 1} + Octets(mac.begin(), mac.end());
}

}  // namespace penstock::gateway::test
