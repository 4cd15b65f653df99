// Destinations no flow may have, whatever a policy or the DNS says (protocol.md "Resources and policy"), and those the
// internet Resource does not include. IPv4 addresses embedded in IPv6 ones are taken out first (v4-mapped and
// -compatible RFC 4291, NAT64 prefixes RFC 6052 and 8215, 6to4 RFC 3056, Teredo RFC 4380, ISATAP RFC 5214), since the
// network may well deliver there: 64:ff9b::a9fe:a9fe is a metadata service.
//
// Immutable once built; any thread.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/address_words.h"

namespace penstock::policy {

// Up to four IPv4 addresses that `address` may stand for. For IPv4 the address itself.
struct EmbeddedV4 {
  std::array<IpAddress, 4> addresses{};
  std::size_t count = 0;
  [[nodiscard]] std::span<const IpAddress> all() const { return {addresses.data(), count}; }
};

class ForbiddenDestinations {
 public:
  // `ranges`: this gateway's tunnel and proxy ranges, own and source addresses. `nat64_prefixes`: those of its network,
  // besides the well-known ones; RFC 6052 lengths.
  ForbiddenDestinations(std::vector<Prefix> ranges, std::vector<Prefix> nat64_prefixes);

  [[nodiscard]] bool contains(const IpAddress& destination) const;
  [[nodiscard]] EmbeddedV4 embedded_v4(const IpAddress& address) const;

 private:
  // As words, by family: every new flow is held against all of them.
  struct RangeV4 {
    std::uint32_t address, mask;
  };
  struct RangeV6 {
    AddressWords address, mask;
  };

  void add(const Prefix& range);
  [[nodiscard]] bool plainly(const IpAddress& address) const;

  std::vector<RangeV4> v4_;
  std::vector<RangeV6> v6_;
  std::vector<Prefix> nat64_prefixes_;
};

// Private, shared, special-purpose: not part of the internet (RFC 6890). The documentation ranges are left in: nothing
// routes them but test networks.
[[nodiscard]] bool outside_internet(const IpAddress& address);

// RFC 6052 §2.2. `prefix`: IPv6, length 32, 40, 48, 56, 64 or 96. `address` lies in it.
[[nodiscard]] IpAddress extract_v4(const Prefix& prefix, const IpAddress& address);
[[nodiscard]] IpAddress embed_v4(const Prefix& prefix, const IpAddress& v4);
[[nodiscard]] bool is_rfc6052_length(unsigned length);

}  // namespace penstock::policy
