// Addresses that have lately refused a flow, been reported unreachable, or not answered: others of the same name are
// tried before them. Bounded and forgetful; being wrong here costs a detour, nothing else.
// One thread, no allocation after construction.
#pragma once

#include <array>
#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::nat {

inline constexpr Duration kFailedFor = std::chrono::seconds{30};

class FailedAddresses {
 public:
  explicit FailedAddresses(Random& random) : secret_{random.next_u64() | 1} {}

  void add(const IpAddress& address, std::uint16_t port, std::uint8_t protocol, Instant now) {
    Set& set = sets_[set_of(address, port, protocol)];
    Entry* place = set[0].until <= set[1].until ? &set[0] : &set[1];
    for (Entry& entry : set)
      if (entry.is(address, port, protocol)) place = &entry;
    *place = {address, now + kFailedFor, port, protocol};
    empty_ = false;
  }
  void forget(const IpAddress& address, std::uint16_t port, std::uint8_t protocol) {
    for (Entry& entry : sets_[set_of(address, port, protocol)])
      if (entry.is(address, port, protocol)) entry = {};
  }
  [[nodiscard]] bool contains(const IpAddress& address, std::uint16_t port, std::uint8_t protocol, Instant now) const {
    if (empty_) return false;
    for (const Entry& entry : sets_[set_of(address, port, protocol)])
      if (entry.until > now && entry.is(address, port, protocol)) return true;
    return false;
  }

 private:
  static constexpr std::size_t kSets = 512;
  struct Entry {
    IpAddress address;
    Instant until{};
    std::uint16_t port = 0;
    std::uint8_t protocol = 0;
    [[nodiscard]] bool is(const IpAddress& a, std::uint16_t p, std::uint8_t pr) const {
      return address == a && port == p && protocol == pr;
    }
  };
  using Set = std::array<Entry, 2>;

  [[nodiscard]] std::size_t set_of(const IpAddress& address, std::uint16_t port, std::uint8_t protocol) const {
    const std::uint64_t key = hash_value(address) ^ (std::uint64_t{port} << 8 | protocol) * 0xff51afd7ed558ccdULL;
    return static_cast<std::size_t>((key ^ secret_) * 0x9e3779b97f4a7c15ULL * secret_ >> 55);
  }

  std::uint64_t secret_;
  std::array<Set, kSets> sets_{};
  bool empty_ = true;
};

}  // namespace penstock::nat
