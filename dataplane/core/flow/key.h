// What a flow is found by, on either side, and the seeded hash of it.
//
// Inside: the peer and the tuple as the client sees it, so that one flow's RST cannot end another's and two peers with
// one tunnel address range cannot meet. Outside: the tuple on the LAN, where the source port is unique per destination
// only (RFC 6146 address-and-port-dependent mapping). ICMP queries use their identifier as the port of our side and 0
// as the other's, and protocol number 1 in both families.
//
// The hash is keyed with secrets drawn at start, so that nobody outside can choose tuples that share a bucket.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::flow {

struct InsideKey {
  IpAddress source;
  IpAddress destination;
  PeerIndex peer = kNoPeer;
  std::uint16_t source_port = 0;  // host order, as all ports here
  std::uint16_t destination_port = 0;
  std::uint8_t protocol = 0;

  bool operator==(const InsideKey&) const = default;
};

struct OutsideKey {
  IpAddress local;  // ours
  IpAddress remote;
  std::uint16_t local_port = 0;
  std::uint16_t remote_port = 0;
  std::uint8_t protocol = 0;

  bool operator==(const OutsideKey&) const = default;
};

class KeyHash {
 public:
  explicit KeyHash(Random& random) {
    for (std::uint64_t& word : secret_) word = random.next_u64() | 1;
  }

  [[nodiscard]] std::uint64_t operator()(const InsideKey& key) const {
    return mix(key.source, key.destination,
               std::uint64_t{key.peer} << 32 | std::uint64_t{key.source_port} << 16 | key.destination_port,
               key.protocol);
  }
  [[nodiscard]] std::uint64_t operator()(const OutsideKey& key) const {
    return mix(key.local, key.remote, std::uint64_t{key.local_port} << 16 | key.remote_port, key.protocol);
  }

 private:
  static std::uint64_t fold(std::uint64_t a, std::uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }
  static std::uint64_t word(const IpAddress& address, std::size_t at) {
    std::uint64_t value;
    std::memcpy(&value, address.bytes().data() + at, 8);
    return value;
  }
  [[nodiscard]] std::uint64_t mix(const IpAddress& a, const IpAddress& b, std::uint64_t ports,
                                  std::uint8_t protocol) const {
    const std::uint64_t addresses =
        fold(word(a, 0) ^ secret_[0], word(a, 8) ^ secret_[1]) ^ fold(word(b, 0) ^ secret_[2], word(b, 8) ^ secret_[3]);
    const std::uint64_t folded = fold(addresses ^ ports ^ secret_[4], secret_[5] + (std::uint64_t{protocol} << 32));
    // The flows of one pair of addresses are a lattice of ports, which one multiplication maps to another lattice; some
    // secrets would crowd it into few buckets. So once more.
    const std::uint64_t mixed = folded * 0xff51afd7ed558ccdULL;
    return mixed ^ (mixed >> 32);
  }

  std::array<std::uint64_t, 6> secret_{};
};

}  // namespace penstock::flow
