// Path MTUs that ICMP has told us (RFC 1191 §6.3, RFC 8201 §5.2), per destination, so that a new flow need not learn
// again what an older one knows. What is known of a live flow stands beside its record (flow_extra.h).
//
// Bounded: a destination has two places it may be kept in; the older entry makes room. The table is keyed with a
// secret, so that an outsider cannot choose whom to push out. One thread, no allocation after construction.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::nat {

// RFC 1191 §6.3, RFC 8201 §4: not before ten minutes is a larger one tried.
inline constexpr Duration kPathMtuLifetime = std::chrono::minutes{10};
// RFC 791: what every IPv4 way carries. IPv6's is kIpv6MinimumMtu.
inline constexpr std::uint16_t kIpv4SmallestMtu = 68;

class PathMtuCache {
 public:
  explicit PathMtuCache(Random& random) : secret_{random.next_u64() | 1} {}

  // A smaller one replaces a larger one at once; a larger one has to wait until the smaller has expired.
  void learn(const IpAddress& destination, std::uint16_t mtu, Instant now);
  // 0: nothing is known.
  [[nodiscard]] std::uint16_t find(const IpAddress& destination, Instant now) const;

 private:
  static constexpr std::size_t kSets = 1024;
  struct Entry {
    IpAddress destination;
    Instant expires{};
    std::uint16_t mtu = 0;
  };
  using Set = std::array<Entry, 2>;

  [[nodiscard]] std::size_t set_of(const IpAddress& destination) const {
    return static_cast<std::size_t>((hash_value(destination) ^ secret_) * 0x9e3779b97f4a7c15ULL * secret_ >> 54);
  }

  std::uint64_t secret_;
  std::array<Set, kSets> sets_{};
  bool empty_ = true;
};

}  // namespace penstock::nat
