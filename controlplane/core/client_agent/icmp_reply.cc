#include "controlplane/core/client_agent/icmp_reply.h"

#include <algorithm>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::client {
namespace {

constexpr std::uint8_t kTtl = 64;
constexpr std::size_t kMaxV4Error = 576;   // RFC 1812 §4.3.2.3
constexpr std::size_t kMaxV6Error = 1280;  // RFC 4443 §2.4 (c)

void set(std::uint8_t* at, Bytes bytes) {
  std::copy(bytes.begin(), bytes.end(), at);
}

std::vector<std::uint8_t> build_v4(Undeliverable why, const InnerPacket& info, Bytes quoted, std::uint16_t mtu) {
  constexpr std::size_t kHeaders = sizeof(Ipv4Header) + sizeof(IcmpHeader);
  quoted = quoted.first(std::min(quoted.size(), kMaxV4Error - kHeaders));
  std::vector<std::uint8_t> out(kHeaders + quoted.size());
  auto* ip = view_as<Ipv4Header>(MutableBytes{out});
  ip->version_ihl = 0x45;
  ip->tos = 0xc0;  // internetwork control, RFC 1812 §4.3.2.5
  ip->total_length = be16::from_host(static_cast<std::uint16_t>(out.size()));
  ip->ttl = kTtl;
  ip->protocol = ip_protocol::icmp;
  set(ip->source.data(), info.destination.wire());
  set(ip->destination.data(), info.source.wire());
  ip->checksum = checksum_finish(checksum_add(0, Bytes{out}.first(sizeof(Ipv4Header))));
  auto* icmp = view_as<IcmpHeader>(MutableBytes{out}.subspan(sizeof(Ipv4Header)));
  icmp->type = icmp4::unreachable;
  icmp->code = why == Undeliverable::prohibited ? 13 : why == Undeliverable::unreachable ? 1 : 4;
  if (why == Undeliverable::too_big) icmp->field2 = be16::from_host(mtu);
  set(out.data() + kHeaders, quoted);
  icmp->checksum = checksum_finish(checksum_add(0, Bytes{out}.subspan(sizeof(Ipv4Header))));
  return out;
}

std::vector<std::uint8_t> build_v6(Undeliverable why, const InnerPacket& info, Bytes quoted, std::uint16_t mtu) {
  constexpr std::size_t kHeaders = sizeof(Ipv6Header) + sizeof(IcmpHeader);
  quoted = quoted.first(std::min(quoted.size(), kMaxV6Error - kHeaders));
  std::vector<std::uint8_t> out(kHeaders + quoted.size());
  auto* ip = view_as<Ipv6Header>(MutableBytes{out});
  ip->version_class_flow = be32::from_host(0x60000000);
  ip->payload_length = be16::from_host(static_cast<std::uint16_t>(out.size() - sizeof(Ipv6Header)));
  ip->next_header = ip_protocol::icmpv6;
  ip->hop_limit = kTtl;
  set(ip->source.data(), info.destination.wire());
  set(ip->destination.data(), info.source.wire());
  auto* icmp = view_as<IcmpHeader>(MutableBytes{out}.subspan(sizeof(Ipv6Header)));
  icmp->type = why == Undeliverable::too_big ? icmp6::packet_too_big : icmp6::unreachable;
  icmp->code = why == Undeliverable::prohibited ? 1 : why == Undeliverable::unreachable ? 3 : 0;
  if (why == Undeliverable::too_big) icmp->field2 = be16::from_host(mtu);
  set(out.data() + kHeaders, quoted);
  const auto length = static_cast<std::uint32_t>(out.size() - sizeof(Ipv6Header));
  const auto pseudo = checksum_pseudo_header(info.destination, info.source, ip_protocol::icmpv6, length);
  icmp->checksum = checksum_finish(checksum_add(pseudo, Bytes{out}.subspan(sizeof(Ipv6Header))));
  return out;
}

}  // namespace

std::vector<std::uint8_t> build_icmp_error(Undeliverable why, const InnerPacket& info, Bytes packet,
                                           std::uint16_t mtu) {
  if (info.icmp_error || info.later_fragment) return {};
  if (is_link_scoped(info.source) || is_link_scoped(info.destination)) return {};
  const Bytes quoted = packet.first(info.length);
  return info.is_v6() ? build_v6(why, info, quoted, mtu) : build_v4(why, info, quoted, mtu);
}

bool TokenBucket::take(Instant now) {
  if (now > last_) {
    const std::chrono::duration<double> passed = now - last_;
    tokens_ = std::min<double>(burst_, tokens_ + passed.count() * rate_);
    last_ = now;
  }
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

}  // namespace penstock::client
