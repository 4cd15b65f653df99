// Longest-prefix match for both families.
//
// A multibit trie of stride 8: an IPv4 lookup reads at most 4 nodes, an IPv6 lookup as many as the longest route that
// shares its bytes. Built once, then read-only: any thread may look up.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/address_words.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

struct Route {
  Prefix to;
  IpAddress via;  // unspecified (::): the destination is on the link
  PortIndex port = kNoPort;

  [[nodiscard]] bool on_link() const { return AddressWords::of(via) == AddressWords{}; }
};

class RouteTable {
 public:
  RouteTable();

  // Replaces a route with the same prefix. At most 65534 routes; false beyond.
  bool add(const Route& route);

  // nullptr: no route.
  [[nodiscard]] const Route* lookup(const IpAddress& destination) const {
    return destination.is_v4() ? lookup_v4(destination.bytes().data() + 12) : lookup_v6(destination.bytes().data());
  }
  // `destination`: as it lies in a header.
  [[nodiscard]] const Route* lookup_v4(const std::uint8_t* destination) const {
    return walk(kRootV4, destination, destination + 4);
  }
  [[nodiscard]] const Route* lookup_v6(const std::uint8_t* destination) const {
    return walk(kRootV6, destination, destination + 16);
  }

  [[nodiscard]] const std::vector<Route>& routes() const { return routes_; }

 private:
  struct Slot {
    std::uint16_t route = 0;   // index in routes_ + 1
    std::uint16_t length = 0;  // of that route's prefix: the longer one wins when prefixes are expanded
    std::uint32_t child = 0;   // index in nodes_; 0: none
  };
  using Node = std::array<Slot, 256>;

  static constexpr std::uint32_t kRootV6 = 0;
  static constexpr std::uint32_t kRootV4 = 1;

  [[nodiscard]] const Route* walk(std::uint32_t node, const std::uint8_t* at, const std::uint8_t* end) const {
    std::uint16_t best = 0;
    for (; at != end; ++at) {
      const Slot& slot = nodes_[node][*at];
      if (slot.route != 0) best = slot.route;
      if (slot.child == 0) break;
      node = slot.child;
    }
    return best == 0 ? nullptr : &routes_[best - 1U];
  }

  std::vector<Route> routes_;
  std::vector<Node> nodes_;
};

}  // namespace penstock::gateway
