#include "controlplane/core/offload/segment.h"

#include <algorithm>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::offload {
namespace {

constexpr std::uint8_t kCwr = 0x80;
constexpr std::size_t kMaxIpv4 = 65535;

// Of the IP packet as its header says; 0: no IP packet, or one that says more than there is.
std::size_t length_of(Bytes packet, bool& v6) {
  if (const auto* ip4 = view_as<Ipv4Header>(packet); ip4 != nullptr && ip4->version_ihl >> 4 == 4) {
    v6 = false;
    const std::size_t length = ip4->total_length.host();
    return ip4->header_length() >= sizeof(Ipv4Header) && length >= ip4->header_length() && length <= packet.size()
               ? length
               : 0;
  }
  const auto* ip6 = view_as<Ipv6Header>(packet);
  if (ip6 == nullptr || packet[0] >> 4 != 6) return 0;
  v6 = true;
  const std::size_t length = sizeof(Ipv6Header) + ip6->payload_length.host();
  return length <= packet.size() ? length : 0;
}

}  // namespace

std::optional<Segments> Segments::parse(Bytes packet, const VnetHeader& vnet) {
  Segments out;
  const std::size_t length = length_of(packet, out.v6_);
  if (length == 0) return std::nullopt;
  packet = packet.first(length);
  out.packet_ = packet;
  out.headers_ = 0;
  out.segment_ = length;
  out.checksum_ = vnet.needs_checksum;
  if (vnet.needs_checksum) {
    out.start_ = vnet.checksum_start;
    out.field_ = out.start_ + vnet.checksum_offset;
    const std::size_t ip = out.v6_ ? sizeof(Ipv6Header) : sizeof(Ipv4Header);
    if (out.start_ < ip || vnet.checksum_offset % 2 != 0 || out.field_ + 2 > length) return std::nullopt;
  }
  if (vnet.gso == VnetHeader::Gso::none) return out;

  out.cut_ = true;
  out.udp_ = vnet.gso == VnetHeader::Gso::udp;
  const bool family_fits = out.udp_ || (vnet.gso == VnetHeader::Gso::tcp6) == out.v6_;
  const std::size_t field = out.udp_ ? offsetof(UdpHeader, checksum) : offsetof(TcpHeader, checksum);
  if (!family_fits || !vnet.needs_checksum || vnet.checksum_offset != field || vnet.segment_size == 0)
    return std::nullopt;
  const Bytes transport = packet.subspan(out.start_);
  const auto* ip4 = view_as<Ipv4Header>(packet);
  if (!out.v6_ && (ip4->header_length() != out.start_ ||
                   ip4->protocol != (out.udp_ ? ip_protocol::udp : ip_protocol::tcp) ||
                   (ip4->flags_offset.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0))
    return std::nullopt;
  std::size_t transport_header = sizeof(UdpHeader);
  if (out.udp_) {
    if (transport.size() < sizeof(UdpHeader)) return std::nullopt;
  } else {
    const auto* tcp = view_as<TcpHeader>(transport);
    if (tcp == nullptr || tcp->header_length() < sizeof(TcpHeader)) return std::nullopt;
    transport_header = tcp->header_length();
  }
  if (transport.size() <= transport_header) return std::nullopt;  // nothing to cut
  out.headers_ = out.start_ + transport_header;
  out.segment_ = vnet.segment_size;
  out.count_ = (length - out.headers_ + out.segment_ - 1) / out.segment_;
  if (out.headers_ + out.segment_ > kMaxIpv4 && out.count_ > 1) return std::nullopt;
  return out;
}

Bytes Segments::payload(std::size_t i) const {
  const std::size_t from = headers_ + i * segment_;
  return packet_.subspan(from, std::min(segment_, packet_.size() - from));
}

void Segments::write(std::size_t i, MutableBytes out) const {
  const Bytes data = payload(i);
  out = out.first(headers_ + data.size());
  std::copy_n(packet_.begin(), headers_, out.begin());
  std::copy(data.begin(), data.end(), out.begin() + static_cast<std::ptrdiff_t>(headers_));
  if (!checksum_) return;
  if (!cut_) {
    // The field holds the pseudo-header's sum: add what there is.
    auto* field = reinterpret_cast<be16*>(out.data() + field_);
    *field = checksum_finish(checksum_add(0, out.subspan(start_)));
    const bool udp = field_ - start_ == offsetof(UdpHeader, checksum);
    if (udp && field->raw() == 0) *field = be16::from_host(0xffff);  // RFC 768: zero means none
    return;
  }
  if (v6_) {
    view_as<Ipv6Header>(out)->payload_length =
        be16::from_host(static_cast<std::uint16_t>(out.size() - sizeof(Ipv6Header)));
  } else {
    auto* ip4 = view_as<Ipv4Header>(out);
    ip4->total_length = be16::from_host(static_cast<std::uint16_t>(out.size()));
    ip4->identification = be16::from_host(static_cast<std::uint16_t>(ip4->identification.host() + i));
    ip4->checksum = {};
    ip4->checksum = checksum_finish(checksum_add(0, out.first(start_)));
  }
  const MutableBytes transport = out.subspan(start_);
  if (udp_) {
    view_as<UdpHeader>(transport)->length = be16::from_host(static_cast<std::uint16_t>(transport.size()));
  } else {
    auto* tcp = view_as<TcpHeader>(transport);
    tcp->sequence = be32::from_host(tcp->sequence.host() + static_cast<std::uint32_t>(i * segment_));
    if (i + 1 != count_) tcp->flags &= static_cast<std::uint8_t>(~(tcp_flag::fin | tcp_flag::psh));
    if (i != 0) tcp->flags &= static_cast<std::uint8_t>(~kCwr);
  }
  write_checksum(out);
}

void Segments::write_checksum(MutableBytes packet) const {
  const MutableBytes transport = packet.subspan(start_);
  // Addresses lie side by side in both families. (A routing header would change the destination; the kernel hands such
  // packets over uncut.)
  const Bytes addresses = v6_ ? Bytes{packet}.subspan(offsetof(Ipv6Header, source), 32)
                              : Bytes{packet}.subspan(offsetof(Ipv4Header, source), 8);
  ChecksumSum sum = checksum_add(0, addresses);
  sum += be16::from_host(udp_ ? ip_protocol::udp : ip_protocol::tcp).raw();
  sum += be32::from_host(static_cast<std::uint32_t>(transport.size())).raw();
  auto* field = reinterpret_cast<be16*>(packet.data() + field_);
  *field = {};
  *field = checksum_finish(checksum_add(sum, transport));
  if (udp_ && field->raw() == 0) *field = be16::from_host(0xffff);
}

}  // namespace penstock::offload
