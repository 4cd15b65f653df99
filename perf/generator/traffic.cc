#include "perf/generator/traffic.h"

#include <algorithm>
#include <cstring>

namespace penstock::generator {
namespace {

constexpr std::uint8_t kHopLimit = 64;

struct Parts {
  IpAddress source, destination;
  std::size_t ip = 0;  // bytes of the IP header
  std::size_t length = 0;
};

std::optional<Parts> parts_of(Bytes packet) {
  if (packet.empty()) return std::nullopt;
  Parts out;
  if (packet[0] >> 4 == 4) {
    const auto* header = view_as<Ipv4Header>(packet);
    if (header == nullptr || header->protocol != ip_protocol::udp) return std::nullopt;
    out = {IpAddress::v4(header->source), IpAddress::v4(header->destination), header->header_length(),
           header->total_length.host()};
  } else {
    const auto* header = view_as<Ipv6Header>(packet);
    if (header == nullptr || packet[0] >> 4 != 6 || header->next_header != ip_protocol::udp) return std::nullopt;
    out = {IpAddress::v6(header->source), IpAddress::v6(header->destination), sizeof(Ipv6Header),
           header->payload_length.host() + sizeof(Ipv6Header)};
  }
  if (out.length > packet.size() || out.length < out.ip + sizeof(UdpHeader) + sizeof(Stamp)) return std::nullopt;
  return out;
}

}  // namespace

FlowHeaders::FlowHeaders(const Endpoint& source, const Endpoint& destination) {
  const bool v4 = source.address.is_v4();
  size_ = v4 ? sizeof(Ipv4Header) + sizeof(UdpHeader) : sizeof(Ipv6Header) + sizeof(UdpHeader);
  if (v4) {
    auto* ip = reinterpret_cast<Ipv4Header*>(bytes_.data());
    ip->version_ihl = 0x45;
    ip->flags_offset = be16::from_host(kIpv4DontFragment);
    ip->ttl = kHopLimit;
    ip->protocol = ip_protocol::udp;
    std::memcpy(ip->source.data(), source.address.wire().data(), sizeof ip->source);
    std::memcpy(ip->destination.data(), destination.address.wire().data(), sizeof ip->destination);
  } else {
    auto* ip = reinterpret_cast<Ipv6Header*>(bytes_.data());
    ip->version_class_flow = be32::from_host(0x60000000);
    ip->next_header = ip_protocol::udp;
    ip->hop_limit = kHopLimit;
    std::memcpy(ip->source.data(), source.address.wire().data(), sizeof ip->source);
    std::memcpy(ip->destination.data(), destination.address.wire().data(), sizeof ip->destination);
  }
  auto* udp = reinterpret_cast<UdpHeader*>(bytes_.data() + size_ - sizeof(UdpHeader));
  udp->source_port = be16::from_host(source.port);
  udp->destination_port = be16::from_host(destination.port);
  sum_ = checksum_pseudo_header(source.address, destination.address, ip_protocol::udp, 0);
  sum_ = checksum_add(sum_, {reinterpret_cast<const std::uint8_t*>(udp), 4});
}

void FlowHeaders::write(std::uint8_t* to, std::uint16_t length, std::uint32_t flow, std::uint64_t sequence) const {
  std::memcpy(to, bytes_.data(), size_);
  const auto udp_length = static_cast<std::uint16_t>(length - size_ + sizeof(UdpHeader));
  if (size_ == sizeof(Ipv4Header) + sizeof(UdpHeader)) {
    auto* ip = reinterpret_cast<Ipv4Header*>(to);
    ip->total_length = be16::from_host(length);
    ip->checksum = checksum_finish(checksum_add(0, {to, sizeof(Ipv4Header)}));
  } else {
    reinterpret_cast<Ipv6Header*>(to)->payload_length = be16::from_host(udp_length);
  }
  auto* udp = reinterpret_cast<UdpHeader*>(to + size_ - sizeof(UdpHeader));
  udp->length = be16::from_host(udp_length);
  auto* stamp = reinterpret_cast<Stamp*>(to + size_);
  *stamp = {be32::from_host(kMarker), be32::from_host(flow), be64::from_host(sequence)};
  std::memset(to + size_ + sizeof(Stamp), 0, length - size_ - sizeof(Stamp));
  // The length counts twice: in the pseudo-header and in the UDP header.
  const ChecksumSum sum = checksum_add(sum_ + 2 * ChecksumSum{udp->length.raw()},
                                       {reinterpret_cast<const std::uint8_t*>(stamp), sizeof(Stamp)});
  udp->checksum = checksum_finish(sum);
  if (udp->checksum == be16{}) udp->checksum = be16::from_host(0xffff);  // RFC 768: zero would mean none
}

std::optional<Arrived> read_packet(Bytes packet, bool whole) {
  const auto parts = parts_of(packet);
  if (!parts) return std::nullopt;
  const auto* stamp = reinterpret_cast<const Stamp*>(packet.data() + parts->ip + sizeof(UdpHeader));
  if (stamp->marker.host() != kMarker) return std::nullopt;
  Arrived out{stamp->flow.host(), stamp->sequence.host(), {}, {}};
  if (whole) {
    const auto* udp = reinterpret_cast<const UdpHeader*>(packet.data() + parts->ip);
    out.source = {parts->source, udp->source_port.host()};
    out.destination = {parts->destination, udp->destination_port.host()};
  }
  return out;
}

bool intact(Bytes packet) {
  const auto parts = parts_of(packet);
  if (!parts) return false;
  const Bytes udp = packet.subspan(parts->ip, parts->length - parts->ip);
  const auto* header = reinterpret_cast<const UdpHeader*>(udp.data());
  if (header->length.host() != udp.size()) return false;
  if (packet[0] >> 4 == 4 && checksum_fold(checksum_add(0, packet.first(parts->ip))) != 0xffff) return false;
  const ChecksumSum pseudo = checksum_pseudo_header(parts->source, parts->destination, ip_protocol::udp,
                                                    static_cast<std::uint32_t>(udp.size()));
  if (checksum_fold(checksum_add(pseudo, udp)) != 0xffff) return false;
  const Bytes rest = udp.subspan(sizeof(UdpHeader) + sizeof(Stamp));
  return std::ranges::all_of(rest, [](std::uint8_t byte) { return byte == 0; });
}

}  // namespace penstock::generator
