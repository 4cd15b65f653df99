// What the client needs to know of an application's packet: who, to whom, which protocol and port, and whether it says
// the same as another one.
//
// parse_inner() takes bytes from outside (the TUN device, a tunnel) and is total: what does not parse, or lacks the
// transport header it promises, is nullopt. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::client {

struct InnerPacket {
  IpAddress source;
  IpAddress destination;
  std::uint8_t protocol = 0;      // transport behind extension headers
  std::uint16_t source_port = 0;  // TCP, UDP; ICMP echo: the identifier; 0 when there is none
  std::uint16_t destination_port = 0;
  std::uint16_t length = 0;  // of the packet as its header says; trailing bytes do not belong to it
  std::uint16_t l4_offset = 0;
  std::uint32_t fragment_id = 0;  // meaningful for fragments
  bool fragment = false;          // any fragment
  bool later_fragment = false;    // no transport header here
  bool icmp_error = false;
  bool icmp_echo = false;  // request or reply

  [[nodiscard]] bool is_v6() const { return source.is_v6(); }
};

[[nodiscard]] std::optional<InnerPacket> parse_inner(Bytes packet);

// Whether `address` is one that never leaves the machine's link: multicast, link-local, loopback, limited broadcast,
// unspecified. Such packets appear on every TUN device (neighbour discovery, mDNS, SSDP) and are not for any gateway.
[[nodiscard]] bool is_link_scoped(const IpAddress& address);

// A digest that is equal for a packet and its retransmission, although the IPv4 identification, hop limit or a TCP
// timestamp differ: TCP by 4-tuple, sequence number, flags and payload length; everything else by addresses and all
// bytes behind the IP header. Not meant against an adversary: what collides is taken for a retransmission.
[[nodiscard]] std::uint64_t retransmission_digest(const InnerPacket& info, Bytes packet);

// The packet without what lies behind its own length.
[[nodiscard]] inline MutableBytes cut(const InnerPacket& info, MutableBytes packet) {
  return packet.first(info.length);
}

}  // namespace penstock::client
