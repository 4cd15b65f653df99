// Makes the packets that the offload tests cut and join: whole, with right checksums.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "controlplane/core/offload/coalesce.h"
#include "controlplane/core/offload/segment.h"
#include "dataplane/core/packet/checksum.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::offload {

using Buffer = std::vector<std::uint8_t>;

struct Shape {
  bool v6 = false;
  bool udp = false;
  std::uint16_t source_port = 40000;
  std::uint8_t host = 9;  // last byte of the destination
  std::uint8_t tos = 0;
  std::uint8_t ttl = 64;
  bool dont_fragment = true;
  std::uint16_t fragment = 0;  // flags and offset beside DF
  std::uint16_t identification = 100;
  std::uint32_t flow_label = 0;
  std::uint32_t sequence = 1000;
  std::uint32_t acknowledgement = 77;
  std::uint16_t window = 512;
  std::uint16_t urgent = 0;
  std::uint8_t flags = tcp_flag::ack;
  std::uint8_t reserved = 0;
  Buffer options;  // of TCP, a multiple of 4 bytes
  std::size_t payload = 100;
  std::uint8_t fill = 0;  // first byte of the payload, then counting up
};

inline void finish(Buffer& packet) {
  const bool v6 = packet[0] >> 4 == 6;
  const std::size_t transport = v6 ? 40 : (packet[0] & 0xfU) * 4U;
  const bool udp = packet[v6 ? 6 : 9] == ip_protocol::udp;
  MutableBytes all{packet};
  if (!v6) {
    auto* ip = view_as<Ipv4Header>(all);
    ip->checksum = {};
    ip->checksum = checksum_finish(checksum_add(0, all.first(transport)));
  }
  const MutableBytes body = all.subspan(transport);
  auto* field = reinterpret_cast<be16*>(body.data() + (udp ? 6 : 16));
  *field = {};
  const Bytes addresses = v6 ? all.subspan(8, 32) : all.subspan(12, 8);
  ChecksumSum sum = checksum_add(0, addresses);
  sum += be16::from_host(udp ? ip_protocol::udp : ip_protocol::tcp).raw();
  sum += be32::from_host(static_cast<std::uint32_t>(body.size())).raw();
  *field = checksum_finish(checksum_add(sum, body));
  if (udp && field->raw() == 0) *field = be16::from_host(0xffff);
}

inline bool right(const Buffer& packet) {
  Buffer again = packet;
  finish(again);
  return again == packet;
}

inline Buffer make(const Shape& shape) {
  const std::size_t ip = shape.v6 ? 40 : 20;
  const std::size_t transport = shape.udp ? 8 : 20 + shape.options.size();
  Buffer out(ip + transport + shape.payload);
  MutableBytes all{out};
  if (shape.v6) {
    auto* header = view_as<Ipv6Header>(all);
    header->version_class_flow = be32::from_host(6U << 28 | std::uint32_t{shape.tos} << 20 | shape.flow_label);
    header->payload_length = be16::from_host(static_cast<std::uint16_t>(transport + shape.payload));
    header->next_header = shape.udp ? ip_protocol::udp : ip_protocol::tcp;
    header->hop_limit = shape.ttl;
    header->source = {0x20, 0x01, 0x0d, 0xb8};
    header->destination = {0x20, 0x01, 0x0d, 0xb8, 1};
    header->destination[15] = shape.host;
  } else {
    auto* header = view_as<Ipv4Header>(all);
    header->version_ihl = 0x45;
    header->tos = shape.tos;
    header->total_length = be16::from_host(static_cast<std::uint16_t>(out.size()));
    header->identification = be16::from_host(shape.identification);
    header->flags_offset =
        be16::from_host(static_cast<std::uint16_t>(shape.fragment | (shape.dont_fragment ? kIpv4DontFragment : 0)));
    header->ttl = shape.ttl;
    header->protocol = shape.udp ? ip_protocol::udp : ip_protocol::tcp;
    header->source = {198, 51, 100, 1};
    header->destination = {203, 0, 113, shape.host};
  }
  const MutableBytes body = all.subspan(ip);
  if (shape.udp) {
    auto* udp = view_as<UdpHeader>(body);
    udp->source_port = be16::from_host(shape.source_port);
    udp->destination_port = be16::from_host(443);
    udp->length = be16::from_host(static_cast<std::uint16_t>(body.size()));
  } else {
    auto* tcp = view_as<TcpHeader>(body);
    tcp->source_port = be16::from_host(shape.source_port);
    tcp->destination_port = be16::from_host(443);
    tcp->sequence = be32::from_host(shape.sequence);
    tcp->acknowledgement = be32::from_host(shape.acknowledgement);
    tcp->offset_reserved = static_cast<std::uint8_t>(transport / 4 << 4 | shape.reserved);
    tcp->flags = shape.flags;
    tcp->window = be16::from_host(shape.window);
    tcp->urgent = be16::from_host(shape.urgent);
    std::copy(shape.options.begin(), shape.options.end(), body.begin() + 20);
  }
  std::iota(out.end() - static_cast<std::ptrdiff_t>(shape.payload), out.end(), shape.fill);
  finish(out);
  return out;
}

// What a device would make of the coalescer's output: packets again.
inline std::vector<Buffer> cut(const Coalescer::Output& output) {
  Buffer whole;
  for (const Bytes piece : output.pieces) whole.insert(whole.end(), piece.begin(), piece.end());
  if (output.vnet.plain()) return {whole};
  const auto segments = Segments::parse(whole, output.vnet);
  std::vector<Buffer> out;
  if (!segments) return out;
  for (std::size_t i = 0; i < segments->count(); ++i) {
    out.emplace_back(segments->size(i));
    segments->write(i, out.back());
  }
  return out;
}

}  // namespace penstock::offload
