// Puts consecutive packets of one flow together into super-packets for a TUN device (GRO), so that the kernel takes a
// whole run of TCP segments or UDP datagrams in one piece. The opposite of segment.h: cutting a super-packet gives back
// the packets it was made of, byte by byte but for the identification of atomic datagrams (below).
//
// What is merged, and nothing else:
//   - TCP with ACK, or ACK and PSH: next sequence number; equal acknowledgement, window, options; PSH ends a run
//   - UDP of one size with a checksum
//   - of one run every packet is as long as the first but the last, which may be shorter and ends it
//   - equal addresses, ports, traffic class with ECN, TTL, flow label, DF; no IP options or extension headers, no
//     fragments
//   - IPv4 identification: counting up by one; with DF it may also stay the same (RFC 6864: it means nothing then)
//   - header and transport checksums are right: a wrong one stays what it is and goes by itself
// Order within a flow is kept. A packet that is not merged ends its flow's run; one whose flow cannot be told (a
// fragment, an extension header, another protocol) ends all runs. Packets of different flows may change places.
//
// Pure, no copies of payloads: the output points into the input. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "controlplane/core/offload/vnet_header.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::offload {

class Coalescer {
 public:
  static constexpr std::size_t kMaxHeaders = 40 + 60;
  static constexpr std::size_t kMaxPackets = 64;  // per super-packet
  static constexpr std::size_t kMaxBytes = 65535;
  static constexpr std::size_t kOpenRuns = 16;  // flows at a time

  // What the device cannot take is not made.
  explicit Coalescer(bool tcp = true, bool udp = true) : tcp_(tcp), udp_(udp) {}

  struct Output {
    VnetHeader vnet;
    std::span<const Bytes> pieces;  // the packet, in pieces
    std::size_t packets = 1;
  };

  // Takes a burst; `output` can be walked until the next call, as long as the packets stand. Bytes behind a packet's
  // own length must have been cut off.
  void coalesce(std::span<const Bytes> packets);
  [[nodiscard]] std::size_t size() const { return runs_.size(); }
  [[nodiscard]] Output output(std::size_t i);

 private:
  struct Facts {
    bool mergeable = false;
    bool flow_known = false;
    bool v6 = false;
    bool udp = false;
    bool ends_run = false;  // PSH
    std::uint16_t transport = 0;
    std::uint16_t headers = 0;
    std::uint16_t payload = 0;
    std::uint16_t identification = 0;
    std::uint32_t sequence = 0;
    std::uint64_t key = 0;  // of the flow, hashed
  };
  struct Run {
    Facts facts;
    Bytes first;
    std::uint32_t next_sequence = 0;
    std::uint16_t last_identification = 0;
    bool same_identification = false;  // decided by the second packet
    bool verified = false;             // the first packet's checksums
    bool push = false;
    std::uint32_t bytes = 0;    // of the super-packet
    std::uint32_t packets = 1;
    std::uint32_t last = 0;     // index of the newest packet's link
    std::uint32_t links = 0;    // index of the first link
  };
  // A run's packets are a list, since those of several flows come mixed.
  struct Link {
    Bytes payload;
    std::uint32_t next = 0;
  };

  [[nodiscard]] Facts inspect(Bytes packet) const;
  bool append(Run& run, const Facts& facts, Bytes packet);

  bool tcp_;
  bool udp_;
  std::vector<Run> runs_;
  std::vector<Link> links_;
  std::array<std::uint32_t, kOpenRuns> open_{};  // indices of runs_
  std::size_t open_count_ = 0;
  std::array<std::uint8_t, kMaxHeaders> headers_{};
  std::vector<Bytes> pieces_;
};

}  // namespace penstock::offload
