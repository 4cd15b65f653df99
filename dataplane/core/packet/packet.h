// A packet under way: where its bytes are and what has been found out about it.
//
// Theory of operation. `io` places one `Packet` in the private area of each DPDK buffer (right behind the rte_mbuf), so
// stages work on `Packet` and never see DPDK; tests and the simulation place it in front of plain memory. `data` always
// points at the layer that the current stage works on: rx gives the Ethernet frame, classify moves it to the IP header,
// decap to the inner IP packet, encap back out. Moving it (pull/push) changes headroom and length together.
// One segment only: ports are set up so that a frame fits one buffer (up to 9 KiB with jumbo pools).
// One worker owns a packet at a time; handing it over a ring hands everything over. No field is shared.
#pragma once

#include <cstdint>
#include <span>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"

namespace penstock {

using PortIndex = std::uint8_t;    // position in the configuration's list of ports
using PeerIndex = std::uint32_t;   // dense slot of a peer, chosen by the data plane
inline constexpr PortIndex kNoPort = 0xff;
inline constexpr PeerIndex kNoPeer = 0xffffffff;

// Room kept before and after the payload so that no stage has to copy: NAT46 grows a header by 20 (+8 fragment), encap
// needs Ethernet 14 + VLAN 4 + IPv6 40 + UDP 8 + WireGuard 16 before and padding 15 + tag 16 after.
inline constexpr std::uint16_t kMinHeadroom = 128;
inline constexpr std::uint16_t kMinTailroom = 64;

struct alignas(64) Packet {
  // First line: touched by every stage.
  std::uint8_t* data = nullptr;
  std::uint16_t length = 0;
  std::uint16_t headroom = 0;   // writable bytes before data
  std::uint16_t tailroom = 0;   // writable bytes after data + length
  PortIndex port = kNoPort;     // rx: where it came from; after route: where it goes
  DropReason drop_reason = DropReason::none;
  PeerIndex peer = kNoPeer;     // decap: sender; NAT back: receiver
  std::uint16_t l4_offset = 0;  // from data to the transport header, set by whoever parsed the IP header
  std::uint8_t l4_protocol = 0; // behind extension headers; 0xff: none (later fragment)
  std::uint8_t flags = 0;       // PacketFlag
  std::uint16_t mtu_hint = 0;   // route: MTU of the way out
  std::uint16_t rss_worker = 0; // hand-over: worker that must see it next
  std::uint32_t flow = 0;       // slot in the owner's flow table + 1; 0: not looked up
  std::uint32_t next_hop = 0;   // route: its number + 1; 0: stays on the port's link
  std::uint16_t vlan = 0;       // 0: untagged
  std::uint64_t user = 0;       // free for the stage that holds the packet

  // Second line: touched by few, and not by a packet of an existing flow.
  alignas(64) Path outer{};     // tunnel datagrams: local = our side, remote = theirs

  [[nodiscard]] MutableBytes bytes() { return {data, length}; }
  [[nodiscard]] Bytes bytes() const { return {data, length}; }

  // Drops `n` bytes from the front. False (unchanged) when the packet is shorter.
  bool pull(std::uint16_t n) {
    if (n > length) return false;
    data += n;
    length = static_cast<std::uint16_t>(length - n);
    headroom = static_cast<std::uint16_t>(headroom + n);
    return true;
  }
  // Opens `n` bytes in front. False (unchanged) when there is no room.
  bool push(std::uint16_t n) {
    if (n > headroom) return false;
    data -= n;
    length = static_cast<std::uint16_t>(length + n);
    headroom = static_cast<std::uint16_t>(headroom - n);
    return true;
  }
  // Opens `n` bytes at the end. False (unchanged) when there is no room.
  bool append(std::uint16_t n) {
    if (n > tailroom) return false;
    length = static_cast<std::uint16_t>(length + n);
    tailroom = static_cast<std::uint16_t>(tailroom - n);
    return true;
  }
  // Cuts the packet to `n` bytes (n <= length).
  void truncate(std::uint16_t n) {
    tailroom = static_cast<std::uint16_t>(tailroom + (length - n));
    length = n;
  }
};

namespace packet_flag {
inline constexpr std::uint8_t ip6 = 0x01;            // data points at an IPv6 header (else IPv4)
inline constexpr std::uint8_t fragment = 0x02;       // any fragment
inline constexpr std::uint8_t later_fragment = 0x04; // offset > 0: no transport header
inline constexpr std::uint8_t l4_checksum_ok = 0x08; // received: verified by the NIC; own: the NIC is to fill it in
inline constexpr std::uint8_t from_tunnel = 0x10;
inline constexpr std::uint8_t own = 0x20;            // made by this process, not received
inline constexpr std::uint8_t held = 0x40;           // was queued for a name or neighbour: skip limits once
inline constexpr std::uint8_t on_path = 0x80;        // encap: seal for outer.remote, not for the peer's endpoint
}  // namespace packet_flag

inline constexpr std::size_t kBurst = 64;

// Up to kBurst packets in order. Not a container for the heap; lives on a worker's stack or in its context.
class PacketBurst {
 public:
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] bool full() const { return size_ == kBurst; }
  // Precondition: !full().
  void add(Packet* packet) { packets_[size_++] = packet; }
  void clear() { size_ = 0; }
  void truncate(std::size_t n) { size_ = n; }

  Packet*& operator[](std::size_t i) { return packets_[i]; }
  Packet* operator[](std::size_t i) const { return packets_[i]; }
  Packet** begin() { return packets_; }
  Packet** end() { return packets_ + size_; }
  Packet** data() { return packets_; }

 private:
  std::size_t size_ = 0;
  Packet* packets_[kBurst];
};

}  // namespace penstock
