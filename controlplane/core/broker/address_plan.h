// Which client has which tunnel addresses: stable for ever, two clients never the same.
//
// A client's number is allocated once and remembered (the owner persists it); its IPv4 and IPv6 address are that offset
// in the two pools. Number 0 (the network itself) and the last of the IPv4 pool (its broadcast) are never given out. A
// client that left the configuration keeps its number until the pool is exhausted. Pure; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "controlplane/core/broker/config.h"

namespace penstock::broker {

class AddressPlan {
 public:
  // Before the first allocation, and again after a reload. Allocations that no longer fit the pools are forgotten.
  void configure(const Pools& pools, const std::map<std::string, ClientConfig>& clients);
  // A remembered allocation; ignored when its number is taken or outside the pools.
  void restore(const std::string& client, std::uint64_t number);

  struct Allocation {
    TunnelAddresses addresses;
    std::optional<std::uint64_t> fresh;  // newly allocated: to be persisted
  };
  // nullopt when the pools are exhausted.
  [[nodiscard]] std::optional<Allocation> allocate(const std::string& client);

 private:
  [[nodiscard]] TunnelAddresses at(std::uint64_t number) const;
  [[nodiscard]] bool usable(std::uint64_t number) const;

  Pools pools_;
  std::map<std::string, ClientConfig> clients_;
  std::set<IpAddress> reserved_;  // fixed in the configuration
  std::map<std::string, std::uint64_t> numbers_;
  std::map<std::uint64_t, std::string> holders_;
  std::uint64_t next_ = 1;
  std::uint64_t last_ = 0;  // highest number both pools have
};

}  // namespace penstock::broker
