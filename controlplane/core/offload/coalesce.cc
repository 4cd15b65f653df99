#include "controlplane/core/offload/coalesce.h"

#include <algorithm>
#include <cstring>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::offload {
namespace {

constexpr std::uint16_t kReservedAndFragment = 0x8000 | kIpv4MoreFragments | kIpv4OffsetMask;

Bytes addresses_of(Bytes packet, bool v6) {
  return v6 ? packet.subspan(offsetof(Ipv6Header, source), 32) : packet.subspan(offsetof(Ipv4Header, source), 8);
}

ChecksumSum pseudo_header(Bytes packet, bool v6, bool udp, std::size_t transport_length) {
  return checksum_add(0, addresses_of(packet, v6)) + be16::from_host(udp ? ip_protocol::udp : ip_protocol::tcp).raw() +
         be32::from_host(static_cast<std::uint32_t>(transport_length)).raw();
}

bool checksums_right(Bytes packet, bool v6, bool udp, std::size_t transport) {
  constexpr std::uint16_t kAllOnes = 0xffff;
  if (!v6 && checksum_fold(checksum_add(0, packet.first(transport))) != kAllOnes) return false;
  const Bytes body = packet.subspan(transport);
  return checksum_fold(checksum_add(pseudo_header(packet, v6, udp, body.size()), body)) == kAllOnes;
}

bool same(Bytes a, Bytes b, std::size_t from, std::size_t length) {
  return std::memcmp(a.data() + from, b.data() + from, length) == 0;
}

// Everything in the IP header that a run must share: class, TTL, DF, protocol, addresses; flow label.
bool same_ip(Bytes a, Bytes b, bool v6) {
  if (v6)
    return same(a, b, 0, offsetof(Ipv6Header, payload_length)) &&
           same(a, b, offsetof(Ipv6Header, next_header), sizeof(Ipv6Header) - offsetof(Ipv6Header, next_header));
  return same(a, b, 0, offsetof(Ipv4Header, total_length)) &&
         same(a, b, offsetof(Ipv4Header, flags_offset),
              offsetof(Ipv4Header, checksum) - offsetof(Ipv4Header, flags_offset)) &&
         same(a, b, offsetof(Ipv4Header, source), 8);
}

// Ports, acknowledgement, header length, window, options. Of the flags only PSH may differ, and both packets have no
// others than ACK and PSH.
bool same_tcp(Bytes a, Bytes b, std::size_t headers) {
  return same(a, b, 0, offsetof(TcpHeader, sequence)) &&
         same(a, b, offsetof(TcpHeader, acknowledgement), 5) && same(a, b, offsetof(TcpHeader, window), 2) &&
         same(a, b, offsetof(TcpHeader, urgent), headers - offsetof(TcpHeader, urgent));
}

std::uint64_t hash_flow(Bytes packet, bool v6, bool udp, std::size_t transport) {
  std::uint32_t ports;
  std::memcpy(&ports, packet.data() + transport, sizeof ports);
  std::uint64_t hash = ports ^ (udp ? 0x9e3779b97f4a7c15ULL : 0);
  const Bytes addresses = addresses_of(packet, v6);
  for (std::size_t i = 0; i < addresses.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, addresses.data() + i, sizeof word);
    hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

Coalescer::Facts Coalescer::inspect(Bytes packet) const {
  Facts out;
  std::uint8_t protocol = 0;
  bool clean = true;
  if (const auto* ip4 = view_as<Ipv4Header>(packet); ip4 != nullptr && ip4->version_ihl >> 4 == 4) {
    if (ip4->total_length.host() != packet.size() || ip4->header_length() < sizeof(Ipv4Header)) return out;
    if ((ip4->flags_offset.host() & (kIpv4MoreFragments | kIpv4OffsetMask)) != 0) return out;
    clean = ip4->version_ihl == 0x45 && (ip4->flags_offset.host() & kReservedAndFragment) == 0;
    out.transport = static_cast<std::uint16_t>(ip4->header_length());
    out.identification = ip4->identification.host();
    protocol = ip4->protocol;
  } else if (const auto* ip6 = view_as<Ipv6Header>(packet); ip6 != nullptr && packet[0] >> 4 == 6) {
    if (sizeof(Ipv6Header) + ip6->payload_length.host() != packet.size()) return out;
    out.v6 = true;
    out.transport = sizeof(Ipv6Header);
    protocol = ip6->next_header;
  } else {
    return out;
  }
  const Bytes transport = packet.size() > out.transport ? packet.subspan(out.transport) : Bytes{};
  if (protocol == ip_protocol::tcp) {
    const auto* tcp = view_as<TcpHeader>(transport);
    if (tcp == nullptr) return out;
    const std::size_t header = tcp->header_length();
    constexpr std::uint8_t kPlain = tcp_flag::ack | tcp_flag::psh;
    out.headers = static_cast<std::uint16_t>(out.transport + header);
    // The four bits beside the header length belong to the flags (RFC 9293, RFC 7560).
    out.mergeable = tcp_ && clean && header >= sizeof(TcpHeader) && out.headers < packet.size() &&
                    (tcp->offset_reserved & 0x0f) == 0 && (tcp->flags | tcp_flag::psh) == kPlain &&
                    tcp->urgent.raw() == 0;
    out.ends_run = (tcp->flags & tcp_flag::psh) != 0;
    out.sequence = tcp->sequence.host();
  } else if (protocol == ip_protocol::udp) {
    const auto* udp = view_as<UdpHeader>(transport);
    if (udp == nullptr) return out;
    out.udp = true;
    out.headers = static_cast<std::uint16_t>(out.transport + sizeof(UdpHeader));
    out.mergeable = udp_ && clean && udp->length.host() == transport.size() && out.headers < packet.size() &&
                    udp->checksum.raw() != 0;
  } else {
    return out;
  }
  out.flow_known = true;
  out.key = hash_flow(packet, out.v6, out.udp, out.transport);
  if (out.mergeable) out.payload = static_cast<std::uint16_t>(packet.size() - out.headers);
  return out;
}

// False: it does not belong behind what the run has.
bool Coalescer::append(Run& run, const Facts& facts, Bytes packet) {
  const Facts& head = run.facts;
  if (facts.v6 != head.v6 || facts.udp != head.udp || facts.headers != head.headers || facts.payload > head.payload)
    return false;
  if (run.packets >= kMaxPackets || run.bytes + facts.payload > kMaxBytes) return false;
  if (!same_ip(run.first, packet, head.v6)) return false;
  const Bytes a = run.first.subspan(head.transport);
  const Bytes b = packet.subspan(facts.transport);
  if (head.udp) {
    if (!same(a, b, 0, offsetof(UdpHeader, length))) return false;
  } else if (facts.sequence != run.next_sequence || !same_tcp(a, b, head.headers - head.transport)) {
    return false;
  }
  bool same_identification = run.same_identification;
  if (!head.v6) {
    const bool atomic = (view_as<Ipv4Header>(packet)->flags_offset.host() & kIpv4DontFragment) != 0;
    const bool counts = facts.identification == static_cast<std::uint16_t>(run.last_identification + 1);
    const bool stays = atomic && facts.identification == run.last_identification;
    if (run.packets == 1) same_identification = stays;
    if (!(same_identification ? stays : counts)) return false;
  }
  if (!run.verified && !checksums_right(run.first, head.v6, head.udp, head.transport)) return false;
  run.verified = true;
  if (!checksums_right(packet, facts.v6, facts.udp, facts.transport)) return false;

  run.same_identification = same_identification;
  run.last_identification = facts.identification;
  run.next_sequence += facts.payload;
  run.push = facts.ends_run;
  run.bytes += facts.payload;
  ++run.packets;
  const auto link = static_cast<std::uint32_t>(links_.size());
  links_.push_back({packet.subspan(facts.headers), 0});
  links_[run.last].next = link;
  run.last = link;
  return true;
}

void Coalescer::coalesce(std::span<const Bytes> packets) {
  runs_.clear();
  links_.clear();
  open_count_ = 0;
  for (const Bytes packet : packets) {
    const Facts facts = inspect(packet);
    std::size_t at = 0;
    if (facts.flow_known) {
      while (at < open_count_ && runs_[open_[at]].facts.key != facts.key) ++at;
      if (at < open_count_) {
        Run& run = runs_[open_[at]];
        const bool appended = facts.mergeable && append(run, facts, packet);
        const bool ended = !appended || facts.ends_run || facts.payload < run.facts.payload;
        if (ended) open_[at] = open_[--open_count_];
        if (appended) continue;
      }
    } else {
      open_count_ = 0;
    }
    Run run;
    run.facts = facts;
    run.first = packet;
    run.next_sequence = facts.sequence + facts.payload;
    run.last_identification = facts.identification;
    run.bytes = static_cast<std::uint32_t>(packet.size());
    run.links = run.last = static_cast<std::uint32_t>(links_.size());
    links_.push_back({facts.mergeable ? packet.subspan(facts.headers) : Bytes{}, 0});
    runs_.push_back(run);
    if (!facts.mergeable || facts.ends_run) continue;
    // The oldest gives way.
    if (open_count_ == kOpenRuns) {
      std::copy(open_.begin() + 1, open_.end(), open_.begin());
      --open_count_;
    }
    open_[open_count_++] = static_cast<std::uint32_t>(runs_.size() - 1);
  }
}

Coalescer::Output Coalescer::output(std::size_t i) {
  const Run& run = runs_[i];
  Output out;
  out.packets = run.packets;
  pieces_.clear();
  if (run.packets == 1) {
    pieces_.push_back(run.first);
    out.pieces = pieces_;
    return out;
  }
  const Facts& facts = run.facts;
  std::copy_n(run.first.begin(), facts.headers, headers_.begin());
  const MutableBytes headers = MutableBytes{headers_}.first(facts.headers);
  const std::size_t transport_length = run.bytes - facts.transport;
  if (facts.v6) {
    view_as<Ipv6Header>(headers)->payload_length =
        be16::from_host(static_cast<std::uint16_t>(run.bytes - sizeof(Ipv6Header)));
  } else {
    auto* ip4 = view_as<Ipv4Header>(headers);
    ip4->total_length = be16::from_host(static_cast<std::uint16_t>(run.bytes));
    ip4->checksum = {};
    ip4->checksum = checksum_finish(checksum_add(0, headers.first(facts.transport)));
  }
  const std::uint16_t partial = checksum_fold(pseudo_header(headers, facts.v6, facts.udp, transport_length));
  const MutableBytes transport = headers.subspan(facts.transport);
  out.vnet.needs_checksum = true;
  out.vnet.header_length = facts.headers;
  out.vnet.segment_size = facts.payload;
  out.vnet.checksum_start = facts.transport;
  if (facts.udp) {
    auto* udp = view_as<UdpHeader>(transport);
    udp->length = be16::from_host(static_cast<std::uint16_t>(transport_length));
    udp->checksum = std::bit_cast<be16>(partial);
    out.vnet.gso = VnetHeader::Gso::udp;
    out.vnet.checksum_offset = offsetof(UdpHeader, checksum);
  } else {
    auto* tcp = view_as<TcpHeader>(transport);
    if (run.push) tcp->flags |= tcp_flag::psh;
    tcp->checksum = std::bit_cast<be16>(partial);
    out.vnet.gso = facts.v6 ? VnetHeader::Gso::tcp6 : VnetHeader::Gso::tcp4;
    out.vnet.checksum_offset = offsetof(TcpHeader, checksum);
  }
  pieces_.push_back(headers);
  std::uint32_t link = run.links;
  for (std::uint32_t n = 0; n < run.packets; ++n, link = links_[link].next) pieces_.push_back(links_[link].payload);
  out.pieces = pieces_;
  return out;
}

}  // namespace penstock::offload
