#include "dataplane/core/nat/fragments.h"

#include <algorithm>

#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {

FragmentCollector::FragmentCollector(const FragmentLimits& limits, Duration lifetime)
    : lifetime_{lifetime},
      per_source_{limits.per_source},
      datagrams_(limits.datagrams),
      pieces_(std::min<std::size_t>(limits.packets, kNone - 1U)) {
  for (std::size_t i = 0; i < pieces_.size(); ++i)
    pieces_[i].next = i + 1 == pieces_.size() ? kNone : static_cast<std::uint16_t>(i + 1);
  free_piece_ = pieces_.empty() ? kNone : std::uint16_t{0};
  complete_.reserve(pieces_.size());
  refused_.reserve(pieces_.size() + 1);
}

FragmentCollector::Datagram* FragmentCollector::find(const FragmentKey& key) {
  if (open_ == 0) return nullptr;
  for (Datagram& datagram : datagrams_)
    if (datagram.used && datagram.key == key) return &datagram;
  return nullptr;
}

FragmentCollector::Datagram* FragmentCollector::open(const FragmentKey& key, Instant now) {
  // Peers answer for themselves; from the LAN, each source.
  std::size_t same_source = 0;
  Datagram* free = nullptr;
  for (Datagram& datagram : datagrams_) {
    if (!datagram.used) {
      free = free == nullptr ? &datagram : free;
    } else if (datagram.key.peer == key.peer && (key.peer != kNoPeer || datagram.key.source == key.source)) {
      ++same_source;
    }
  }
  if (free == nullptr || same_source >= per_source_) return nullptr;
  *free = Datagram{key, now + lifetime_, 0, 0, kNone, true, false};
  ++open_;
  return free;
}

void FragmentCollector::release(Datagram& datagram) {
  datagram.used = false;
  --open_;
}

// Hands all pieces back; the datagram stays, so that its stragglers are known.
void FragmentCollector::refuse(Datagram& datagram, DropReason reason) {
  datagram.condemned = true;
  while (datagram.first != kNone) {
    Piece& piece = pieces_[datagram.first];
    refused_.push_back({piece.packet, reason});
    const std::uint16_t freed = datagram.first;
    datagram.first = piece.next;
    piece.next = free_piece_;
    free_piece_ = freed;
    --held_;
  }
}

FragmentCollector::Added FragmentCollector::add(Packet* packet, const IpView& view, const FragmentKey& key,
                                                Instant now) {
  expire(now);
  Datagram* datagram = find(key);
  if (datagram == nullptr) datagram = open(key, now);
  if (datagram == nullptr) return {DropReason::nat_fragment_limit, {}, 0};
  if (datagram->condemned) return {DropReason::nat_fragment_overlap, {}, 0};

  const std::uint32_t begin = view.fragment_offset;
  const std::uint32_t end = begin + view.payload_length();
  const auto condemn = [&] {
    refuse(*datagram, DropReason::nat_fragment_overlap);
    return Added{DropReason::nat_fragment_overlap, {}, 0};
  };
  if (datagram->end != 0 && (end > datagram->end || (!view.more_fragments && end != datagram->end))) return condemn();

  std::uint16_t before = kNone;
  std::uint16_t after = datagram->first;
  while (after != kNone && pieces_[after].offset < begin) {
    before = after;
    after = pieces_[after].next;
  }
  if (after != kNone && pieces_[after].offset == begin && pieces_[after].length == end - begin)
    return {DropReason::nat_fragment_overlap, {}, 0};  // a duplicate, which the network may make
  if (before != kNone && std::uint32_t{pieces_[before].offset} + pieces_[before].length > begin) return condemn();
  if (after != kNone && pieces_[after].offset < end) return condemn();
  if (!view.more_fragments && after != kNone) return condemn();  // something lies behind the end

  if (free_piece_ == kNone) {
    if (datagram->first == kNone) release(*datagram);
    return {DropReason::nat_fragment_limit, {}, 0};
  }
  const std::uint16_t fresh = free_piece_;
  free_piece_ = pieces_[fresh].next;
  pieces_[fresh] = {packet, static_cast<std::uint16_t>(begin), static_cast<std::uint16_t>(end - begin), after};
  (before == kNone ? datagram->first : pieces_[before].next) = fresh;
  ++held_;
  datagram->received += end - begin;
  if (!view.more_fragments) datagram->end = end;
  if (datagram->end == 0 || datagram->received != datagram->end) return {};

  complete_.clear();
  for (std::uint16_t at = datagram->first; at != kNone;) {
    complete_.push_back(pieces_[at].packet);
    const std::uint16_t next = pieces_[at].next;
    pieces_[at].next = free_piece_;
    free_piece_ = at;
    --held_;
    at = next;
  }
  Added out{DropReason::none, complete_, static_cast<std::uint16_t>(datagram->end)};
  release(*datagram);
  return out;
}

void FragmentCollector::expire(Instant now) {
  if (open_ == 0) return;
  for (Datagram& datagram : datagrams_) {
    if (!datagram.used || datagram.expires > now) continue;
    refuse(datagram, DropReason::nat_fragment_limit);
    release(datagram);
  }
}

void FragmentCollector::clear() {
  for (Datagram& datagram : datagrams_) {
    if (!datagram.used) continue;
    refuse(datagram, DropReason::shutting_down);
    release(datagram);
  }
}

Instant FragmentCollector::poll_timeout() const {
  Instant earliest = kNever;
  if (open_ == 0) return earliest;
  for (const Datagram& datagram : datagrams_)
    if (datagram.used) earliest = std::min(earliest, datagram.expires);
  return earliest;
}

namespace {

// Options for fragments other than the first: those with the copied flag, padded (RFC 791 §3.1).
std::size_t copied_options(Bytes options, std::uint8_t* out) {
  std::size_t length = 0;
  for (std::size_t at = 0; at < options.size() && options[at] != 0;) {
    const std::size_t size = options[at] == 1 ? 1 : options[at + 1];
    if ((options[at] & 0x80) != 0) {
      std::memcpy(out + length, options.data() + at, size);
      length += size;
    }
    at += size;
  }
  while (length % 4 != 0) out[length++] = 0;
  return length;
}

struct Cut {
  std::uint8_t header[60 + sizeof(Ipv6FragmentHeader)];  // of every fragment but the first
  std::size_t header_length;
};

void finish_ipv4(std::uint8_t* at, std::size_t header_length, std::size_t total, std::uint16_t offset, bool more) {
  auto* header = reinterpret_cast<Ipv4Header*>(at);
  header->version_ihl = static_cast<std::uint8_t>(0x40 | header_length / 4);
  header->total_length = be16::from_host(static_cast<std::uint16_t>(total));
  header->flags_offset = be16::from_host(static_cast<std::uint16_t>(offset / 8 | (more ? kIpv4MoreFragments : 0)));
  header->checksum = be16{};
  header->checksum = checksum_finish(checksum_add(0, {at, header_length}));
}

void finish_ipv6(std::uint8_t* at, std::size_t header_length, std::size_t total, std::uint16_t offset, bool more) {
  reinterpret_cast<Ipv6Header*>(at)->payload_length =
      be16::from_host(static_cast<std::uint16_t>(total - sizeof(Ipv6Header)));
  reinterpret_cast<Ipv6FragmentHeader*>(at + header_length - sizeof(Ipv6FragmentHeader))->offset_flags =
      be16::from_host(static_cast<std::uint16_t>(offset | (more ? 1 : 0)));
}

// Puts a fragment header behind the fixed IPv6 header of a translated packet.
bool add_fragment_header(Packet& packet, std::uint32_t identification) {
  if (!packet.push(sizeof(Ipv6FragmentHeader))) return false;
  std::memmove(packet.data, packet.data + sizeof(Ipv6FragmentHeader), sizeof(Ipv6Header));
  auto* header = reinterpret_cast<Ipv6Header*>(packet.data);
  Ipv6FragmentHeader fragment{};
  fragment.next_header = header->next_header;
  fragment.identification = be32::from_host(identification);
  header->next_header = ip_protocol::ipv6_fragment;
  std::memcpy(packet.data + sizeof(Ipv6Header), &fragment, sizeof fragment);
  packet.l4_offset = static_cast<std::uint16_t>(packet.l4_offset + sizeof fragment);
  return true;
}

}  // namespace

Packet* join_fragments(std::span<Packet* const> pieces, PacketSource& packets) {
  Packet& first = *pieces.front();
  const IpView view = parse_ip(first).view;
  const std::size_t header = view.v6() ? sizeof(Ipv6Header) : view.header_length;
  std::size_t total = header;
  for (Packet* piece : pieces) total += parse_ip(*piece).view.payload_length();
  Packet* out = packets.allocate();
  if (out == nullptr) return nullptr;
  if (total > 0xffff || !out->append(static_cast<std::uint16_t>(total))) {
    out->length = 0;
    return out;
  }
  std::memcpy(out->data, first.data, header);
  std::size_t at = header;
  for (Packet* piece : pieces) {
    const std::size_t length = piece->length - piece->l4_offset;
    std::memcpy(out->data + at, piece->data + piece->l4_offset, length);
    at += length;
  }
  if (view.v6()) {
    auto* ip = reinterpret_cast<Ipv6Header*>(out->data);
    ip->next_header = view.protocol;
    ip->payload_length = be16::from_host(static_cast<std::uint16_t>(total - header));
  } else {
    finish_ipv4(out->data, header, total, 0, false);
  }
  out->peer = first.peer;
  out->port = first.port;
  (void)parse_ip(*out);
  out->flags = static_cast<std::uint8_t>(out->flags | (first.flags & packet_flag::from_tunnel));
  return out;
}

DropReason fragment_packet(Packet& packet, std::uint16_t mtu, std::uint32_t identification, PacketSource& packets,
                           std::vector<Packet*>& out) {
  IpParse parsed = parse_ip(packet);
  if (parsed.reason != DropReason::none) return parsed.reason;
  const bool v6 = parsed.view.v6();
  if (v6 && !parsed.view.has_fragment_header) {
    if (!add_fragment_header(packet, identification)) return DropReason::no_headroom;
    reinterpret_cast<Ipv6Header*>(packet.data)->payload_length =
        be16::from_host(static_cast<std::uint16_t>(packet.length - sizeof(Ipv6Header)));
    parsed = parse_ip(packet);
    if (parsed.reason != DropReason::none) return parsed.reason;
  }
  const IpView& view = parsed.view;
  Cut cut{};
  const std::size_t first_header = view.header_length;
  if (first_header > sizeof cut.header || mtu < first_header + 8) return DropReason::too_big;
  cut.header_length = first_header;
  std::memcpy(cut.header, packet.data, v6 ? first_header : sizeof(Ipv4Header));
  if (!v6)
    cut.header_length = sizeof(Ipv4Header) +
                        copied_options(packet.bytes().subspan(sizeof(Ipv4Header), first_header - sizeof(Ipv4Header)),
                                       cut.header + sizeof(Ipv4Header));

  const std::size_t before = out.size();
  const Bytes payload = Bytes{packet.bytes()}.subspan(first_header);
  const std::size_t first_part = std::min<std::size_t>(payload.size(), (mtu - first_header) / 8 * 8);
  const std::size_t part = (mtu - cut.header_length) / 8 * 8;
  out.push_back(&packet);
  for (std::size_t at = first_part; at < payload.size(); at += part) {
    Packet* piece = packets.allocate();
    const std::size_t length = std::min(part, payload.size() - at);
    if (piece == nullptr || !piece->append(static_cast<std::uint16_t>(cut.header_length + length))) {
      if (piece != nullptr) out.push_back(piece);
      // The caller drops what was made so far together with the packet.
      std::rotate(out.begin() + static_cast<std::ptrdiff_t>(before),
                  out.begin() + static_cast<std::ptrdiff_t>(before) + 1, out.end());
      out.pop_back();
      return DropReason::no_buffer;
    }
    piece->peer = packet.peer;
    piece->port = packet.port;
    piece->flow = packet.flow;
    std::memcpy(piece->data, cut.header, cut.header_length);
    std::memcpy(piece->data + cut.header_length, payload.data() + at, length);
    const bool more = view.more_fragments || at + length < payload.size();
    const auto offset = static_cast<std::uint16_t>(view.fragment_offset + at);
    (v6 ? finish_ipv6 : finish_ipv4)(piece->data, cut.header_length, cut.header_length + length, offset, more);
    (void)parse_ip(*piece);
    piece->flags = static_cast<std::uint8_t>(piece->flags | (packet.flags & packet_flag::from_tunnel));
    out.push_back(piece);
  }
  const bool more = view.more_fragments || first_part < payload.size();
  packet.truncate(static_cast<std::uint16_t>(first_header + first_part));
  (v6 ? finish_ipv6 : finish_ipv4)(packet.data, first_header, packet.length, view.fragment_offset, more);
  (void)parse_ip(packet);
  return DropReason::none;
}

}  // namespace penstock::nat
