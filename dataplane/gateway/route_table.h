// Longest-prefix match for both families.
//
// A multibit trie of stride 8: an IPv4 lookup reads at most 4 nodes, an IPv6 lookup as many as the longest route that
// shares its bytes. Built once, then read-only: any thread may look up.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/packet/packet.h"

namespace penstock::gateway {

struct Route {
  Prefix to;
  IpAddress via;  // unspecified (::): the destination is on the link
  PortIndex port = kNoPort;

  [[nodiscard]] bool on_link() const { return via == IpAddress{}; }
};

class RouteTable {
 public:
  RouteTable();

  // Replaces a route with the same prefix. At most 65534 routes; false beyond.
  bool add(const Route& route);

  // nullptr: no route.
  [[nodiscard]] const Route* lookup(const IpAddress& destination) const;

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

  std::vector<Route> routes_;
  std::vector<Node> nodes_;
};

}  // namespace penstock::gateway
