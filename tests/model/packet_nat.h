// Raw IP packets through a NatBox: rewrites addresses, ports, ICMP identifiers and checksums, also in packets quoted by
// ICMP errors (RFC 5508 §4), decrements the TTL, follows fragments, hairpins, and answers what a router answers.
//
// IPv4 and IPv6 (NAT66 with ports). UDP, TCP, ICMP echo and ICMP errors; other protocols do not pass. Pure: packets and
// the time go in, packets come out with the side they leave on. Checksums are adjusted (RFC 1624), so that a wrong one
// stays wrong. One thread; bounded memory (fragments: 1024 datagrams, 64 early pieces).
#pragma once

#include <deque>
#include <map>
#include <tuple>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/packet/ip_parse.h"
#include "tests/model/nat_box.h"

namespace penstock::model {

enum class Side : std::uint8_t { inside, outside };

struct SidedPacket {
  Side leaves;
  std::vector<std::uint8_t> bytes;
};

// An ICMP error about `packet` from `from`, in the packet's family. Quotes as much as fits 576 or 1280 bytes. Empty
// when there must be no error (RFC 1122 §3.2.2, RFC 4443 §2.4): about an ICMP error, a later fragment, a multicast
// destination, an address that no packet may come from. `field2`: IPv4's next-hop MTU.
[[nodiscard]] std::vector<std::uint8_t> icmp_error(Bytes packet, const IpAddress& from, std::uint8_t type,
                                                   std::uint8_t code, std::uint32_t mtu = 0);
// "Too big" of the packet's family; empty for an IPv4 packet that may be fragmented, or as above.
[[nodiscard]] std::vector<std::uint8_t> too_big_error(Bytes packet, const IpAddress& from, std::uint32_t mtu);

class PacketNat {
 public:
  struct Config {
    IpAddress inside_v4;  // the NAT's own addresses on its inside, from which errors come; unspecified: no errors
    IpAddress inside_v6;
    bool decrements_ttl = true;
  };
  struct Statistics {
    std::uint64_t out = 0, in = 0, hairpinned = 0, rejected = 0, dropped = 0;
  };

  // `box` outlives the object.
  PacketNat(NatBox& box, const Config& config) : box_(box), config_(config) {}

  void handle(Side came_from, std::vector<std::uint8_t> packet, Instant now, std::vector<SidedPacket>& out);

  // Forgets fragments as well as mappings.
  void forget();
  [[nodiscard]] NatBox& box() { return box_; }
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }

 private:
  struct Flow;  // what a packet is, as far as a NAT cares
  using FragmentKey = std::tuple<Side, IpAddress, IpAddress, std::uint32_t, std::uint8_t>;
  struct FragmentEntry {
    IpAddress source, destination;  // as rewritten
    Side leaves;
    Instant expires;
  };
  struct Early {
    FragmentKey key;
    std::vector<std::uint8_t> bytes;
    Instant expires;
  };

  void from_inside(std::vector<std::uint8_t>& packet, const IpView& view, Instant now, std::vector<SidedPacket>& out);
  void from_outside(std::vector<std::uint8_t>& packet, const IpView& view, Instant now, std::vector<SidedPacket>& out);
  void handle_error(Side came_from, std::vector<std::uint8_t>& packet, const IpView& view, Instant now,
                    std::vector<SidedPacket>& out);
  void handle_later_fragment(Side came_from, std::vector<std::uint8_t>& packet, const IpView& view, Instant now,
                             std::vector<SidedPacket>& out);
  void emit(Side came_from, Side leaves, std::vector<std::uint8_t>& packet, const IpView& view, const Flow& flow,
            const Endpoint& source, const Endpoint& destination, Instant now, std::vector<SidedPacket>& out);
  void reject(const std::vector<std::uint8_t>& packet, const IpView& view, std::vector<SidedPacket>& out);
  [[nodiscard]] std::optional<Duration> life_of(const std::vector<std::uint8_t>& packet, const Flow& flow) const;

  NatBox& box_;
  Config config_;
  std::map<FragmentKey, FragmentEntry> fragments_;
  std::deque<Early> early_;
  Statistics statistics_;
};

}  // namespace penstock::model
