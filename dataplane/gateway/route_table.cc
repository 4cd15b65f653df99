#include "dataplane/gateway/route_table.h"

namespace penstock::gateway {

RouteTable::RouteTable() : nodes_(2) {}

bool RouteTable::add(const Route& route) {
  for (Route& known : routes_)
    if (known.to == route.to) {
      known = route;
      return true;
    }
  if (routes_.size() >= 65534) return false;
  routes_.push_back(route);
  const auto number = static_cast<std::uint16_t>(routes_.size());

  const bool four = route.to.address().is_v4();
  const std::array<std::uint8_t, 16>& bytes = route.to.address().bytes();
  std::size_t at = four ? 12 : 0;
  std::uint32_t node = four ? kRootV4 : kRootV6;
  unsigned bits = route.to.length();
  while (bits > 8) {
    std::uint32_t child = nodes_[node][bytes[at]].child;
    if (child == 0) {
      child = static_cast<std::uint32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node][bytes[at]].child = child;
    }
    node = child;
    bits -= 8;
    ++at;
  }
  // Controlled prefix expansion: a prefix that ends inside this byte fills all the slots it covers.
  const unsigned span = 1U << (8 - bits);
  const unsigned first = bytes[at] & ~(span - 1) & 0xff;
  const auto length = static_cast<std::uint16_t>(route.to.length() + 1);
  for (unsigned i = 0; i < span; ++i) {
    Slot& slot = nodes_[node][first + i];
    if (slot.length < length) {
      slot.route = number;
      slot.length = length;
    }
  }
  return true;
}

}  // namespace penstock::gateway
