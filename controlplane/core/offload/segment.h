// Cuts a super-packet from a TUN device into the packets that it stands for, as the kernel or a network card would
// (TSO, USO), and completes checksums that were left to the device.
//
// Theory of operation. parse() checks everything once; write() then makes the i-th packet in memory of the caller's, so
// that the payload is copied exactly once, to where it will be encrypted. Per packet: lengths; IPv4 identification
// counting up; TCP sequence number; FIN and PSH only in the last packet, CWR only in the first (RFC 3168 §6.1.2);
// transport checksum from scratch over the pseudo-header, IPv4 header checksum.
//
// Input is the kernel's, but nothing here trusts it: what contradicts itself is nullopt. Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "controlplane/core/offload/vnet_header.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::offload {

class Segments {
 public:
  // `packet` without the header itself; it must outlive the result. nullopt: malformed.
  [[nodiscard]] static std::optional<Segments> parse(Bytes packet, const VnetHeader& vnet);

  [[nodiscard]] std::size_t count() const { return count_; }
  // Of packet `i`, IP header included. The first is the largest.
  [[nodiscard]] std::size_t size(std::size_t i) const { return headers_ + payload(i).size(); }
  // Precondition: i < count(), out.size() >= size(i).
  void write(std::size_t i, MutableBytes out) const;

 private:
  [[nodiscard]] Bytes payload(std::size_t i) const;
  void write_checksum(MutableBytes packet) const;

  Bytes packet_;
  std::size_t count_ = 1;
  std::size_t headers_ = 0;  // IP and transport
  std::size_t segment_ = 0;  // payload of each but the last; count 1: of the whole
  std::size_t start_ = 0;    // of the checksum: the transport header
  std::size_t field_ = 0;    // of the checksum, from the packet's start
  bool checksum_ = false;
  bool cut_ = false;  // gso: headers are rewritten
  bool v6_ = false;
  bool udp_ = false;
};

}  // namespace penstock::offload
