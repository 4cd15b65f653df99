#include "dataplane/gateway/address_set.h"

namespace penstock::gateway {

AddressSet::AddressSet() : entries_(64) {}

std::size_t AddressSet::slot_of(const IpAddress& address) const {
  const std::size_t mask = entries_.size() - 1;
  std::size_t slot = AddressWords::of(address).hash(0) & mask;
  while (entries_[slot].uses != address_use::none && entries_[slot].address != address) slot = (slot + 1) & mask;
  return slot;
}

void AddressSet::grow() {
  std::vector<Entry> old(entries_.size() * 2);
  old.swap(entries_);
  for (const Entry& entry : old)
    if (entry.uses != address_use::none) entries_[slot_of(entry.address)] = entry;
}

void AddressSet::add(const IpAddress& address, std::uint8_t uses, PortIndex port) {
  if ((size_ + 1) * 16 > entries_.size() && entries_.size() < kSparse) grow();
  if ((size_ + 1) * 2 > entries_.size()) grow();
  Entry& entry = entries_[slot_of(address)];
  if (entry.uses == address_use::none) {
    entry.address = address;
    ++size_;
  }
  entry.uses = static_cast<std::uint8_t>(entry.uses | uses);
  if (entry.port == kNoPort) entry.port = port;
}

}  // namespace penstock::gateway
