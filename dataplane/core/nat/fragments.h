// Virtual reassembly (RFC 6146 §3.4): fragments of one datagram are held until all of it is here, in whatever order,
// and then go on as they are, in order. So the translator knows ports and whole length for every piece, and nothing
// half-checked ever leaves. Overlapping fragments condemn the datagram (RFC 5722, RFC 8200 §4.5); an exact duplicate of
// a piece is dropped by itself. Memory and time are bounded; what exceeds them is refused.
//
// And its counterpart: cutting a translated packet that is too long for its way.
//
// One thread. The collector owns the packets it holds until it gives them out. No allocation after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/core/base/time.h"
#include "dataplane/core/nat/config.h"
#include "dataplane/core/packet/ip_parse.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/packet/packet_source.h"

namespace penstock::nat {

// What makes fragments belong together (RFC 791, RFC 8200 §4.5), and whose they are.
struct FragmentKey {
  IpAddress source;
  IpAddress destination;
  PeerIndex peer = kNoPeer;  // kNoPeer: from the LAN
  std::uint32_t identification = 0;
  std::uint8_t protocol = 0;

  bool operator==(const FragmentKey&) const = default;
};

class FragmentCollector {
 public:
  FragmentCollector(const FragmentLimits& limits, Duration lifetime);

  struct Added {
    DropReason reason = DropReason::none;  // not none: `packet` was not taken and is to be dropped
    std::span<Packet* const> complete;     // the whole datagram in order; valid until the next call; the caller's now
    std::uint16_t payload_length = 0;      // of it
  };
  Added add(Packet* packet, const IpView& view, const FragmentKey& key, Instant now);

  // Gives out, as refused (see take_refused), what is older than the lifetime.
  void expire(Instant now);
  // Gives out everything, as refused.
  void clear();
  // Packets of datagrams that were condemned, timed out or cleared since the last call; with the reason to drop them.
  struct Refused {
    Packet* packet;
    DropReason reason;
  };
  [[nodiscard]] std::span<const Refused> refused() const { return refused_; }
  void forget_refused() { refused_.clear(); }

  // When expire() is due; kNever when nothing is held.
  [[nodiscard]] Instant poll_timeout() const;
  [[nodiscard]] std::size_t held() const { return held_; }

 private:
  static constexpr std::uint16_t kNone = 0xffff;

  struct Piece {
    Packet* packet = nullptr;
    std::uint16_t offset = 0;
    std::uint16_t length = 0;
    std::uint16_t next = kNone;
  };
  struct Datagram {
    FragmentKey key;
    Instant expires{};
    std::uint32_t end = 0;        // of the payload; 0: the last fragment is not here yet
    std::uint32_t received = 0;   // bytes of payload
    std::uint16_t first = kNone;  // pieces by offset
    bool used = false;
    bool condemned = false;  // later pieces are dropped too, until it expires
  };

  void refuse(Datagram& datagram, DropReason reason);
  void release(Datagram& datagram);
  Datagram* find(const FragmentKey& key);
  Datagram* open(const FragmentKey& key, Instant now);

  Duration lifetime_;
  std::uint16_t per_source_;
  std::vector<Datagram> datagrams_;
  std::vector<Piece> pieces_;
  std::uint16_t free_piece_ = 0;
  std::size_t held_ = 0;
  std::size_t open_ = 0;
  std::vector<Packet*> complete_;
  std::vector<Refused> refused_;
};

// Cuts `packet` (data at an IP header, of either family) into fragments of at most `mtu` bytes and appends them to
// `out`, `packet` itself the first of them. IPv4 options are kept on the first and, where their copied flag says so, on
// the others (RFC 791). IPv6: only for packets that a translator may fragment, with `identification` when they have no
// fragment header yet. Reasons: no_buffer, no_headroom, too_big (no room for payload); `out` may then have got pieces
// that are to be dropped like `packet`, which is not among them.
[[nodiscard]] DropReason fragment_packet(Packet& packet, std::uint16_t mtu, std::uint32_t identification,
                                         PacketSource& packets, std::vector<Packet*>& out);

// The counterpart: one packet out of all the pieces of a datagram, in order. For ICMP errors, which can only be
// translated whole. Extension headers of IPv6 are left out. nullptr when it would not fit a buffer or there is none;
// the pieces stay the caller's.
[[nodiscard]] Packet* join_fragments(std::span<Packet* const> pieces, PacketSource& packets);

}  // namespace penstock::nat
