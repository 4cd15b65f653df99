#include "controlplane/core/broker/address_plan.h"

#include <algorithm>

namespace penstock::broker {
namespace {

IpAddress add(const IpAddress& base, std::uint64_t offset) {
  std::array<std::uint8_t, 16> bytes = base.bytes();
  for (std::size_t i = 16; i-- > 0 && offset != 0;) {
    offset += bytes[i];
    bytes[i] = static_cast<std::uint8_t>(offset);
    offset >>= 8;
  }
  return IpAddress::v6(bytes);
}

}  // namespace

void AddressPlan::configure(const Pools& pools, const std::map<std::string, ClientConfig>& clients) {
  const bool moved = !(pools == pools_);
  pools_ = pools;
  clients_ = clients;
  const unsigned bits = std::min(32 - pools.tunnel_v4.length(), std::min(128 - pools.tunnel_v6.length(), 32U));
  last_ = (std::uint64_t{1} << bits) - 2;
  if (moved) next_ = 1;
  reserved_.clear();
  for (const auto& [id, client] : clients) {
    if (!client.fixed.v4.is_unspecified()) reserved_.insert(client.fixed.v4);
    if (!client.fixed.v6.is_unspecified()) reserved_.insert(client.fixed.v6);
  }
  std::erase_if(numbers_, [&](const auto& entry) { return !usable(entry.second); });
  std::erase_if(holders_, [&](const auto& entry) { return !usable(entry.first); });
}

void AddressPlan::restore(const std::string& client, std::uint64_t number) {
  if (!usable(number) || holders_.contains(number) || numbers_.contains(client)) return;
  numbers_[client] = number;
  holders_[number] = client;
}

TunnelAddresses AddressPlan::at(std::uint64_t number) const {
  return {add(pools_.tunnel_v4.address(), number), add(pools_.tunnel_v6.address(), number)};
}

bool AddressPlan::usable(std::uint64_t number) const {
  if (number == 0 || number > last_) return false;
  const TunnelAddresses addresses = at(number);
  return !reserved_.contains(addresses.v4) && !reserved_.contains(addresses.v6);
}

std::optional<AddressPlan::Allocation> AddressPlan::allocate(const std::string& client) {
  const auto config = clients_.find(client);
  if (config != clients_.end()) {
    const TunnelAddresses& fixed = config->second.fixed;
    if (!fixed.v4.is_unspecified() && !fixed.v6.is_unspecified()) return Allocation{fixed, std::nullopt};
  }
  const auto finish = [&](std::uint64_t number, bool fresh) {
    Allocation out{at(number), fresh ? std::optional{number} : std::nullopt};
    if (config == clients_.end()) return out;
    if (!config->second.fixed.v4.is_unspecified()) out.addresses.v4 = config->second.fixed.v4;
    if (!config->second.fixed.v6.is_unspecified()) out.addresses.v6 = config->second.fixed.v6;
    return out;
  };
  if (const auto known = numbers_.find(client); known != numbers_.end()) return finish(known->second, false);

  const auto take = [&](std::uint64_t number) {
    numbers_[client] = number;
    holders_[number] = client;
    return finish(number, true);
  };
  for (; next_ <= last_; ++next_)
    if (usable(next_) && !holders_.contains(next_)) return take(next_++);
  // Exhausted: re-use the number of a client that is no longer configured.
  for (const auto& [number, holder] : holders_) {
    if (clients_.contains(holder)) continue;
    const std::uint64_t freed = number;
    numbers_.erase(holder);
    return take(freed);
  }
  return std::nullopt;
}

}  // namespace penstock::broker
