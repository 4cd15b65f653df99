#include "dataplane/core/nat/path_mtu.h"

namespace penstock::nat {

void PathMtuCache::learn(const IpAddress& destination, std::uint16_t mtu, Instant now) {
  Set& set = sets_[set_of(destination)];
  Entry* place = set[0].expires <= set[1].expires ? &set[0] : &set[1];
  for (Entry& entry : set)
    if (entry.destination == destination) place = &entry;
  if (place->destination == destination && place->expires > now && place->mtu < mtu) return;
  *place = {destination, now + kPathMtuLifetime, mtu};
  empty_ = false;
}

std::uint16_t PathMtuCache::find(const IpAddress& destination, Instant now) const {
  if (empty_) return 0;
  for (const Entry& entry : sets_[set_of(destination)])
    if (entry.destination == destination && entry.expires > now) return entry.mtu;
  return 0;
}

}  // namespace penstock::nat
