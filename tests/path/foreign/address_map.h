// Stateless address mapping: explicit pairs and prefix pairs (RFC 7757), and prefixes that embed IPv4 (RFC 6052).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dataplane/core/base/address.h"

namespace penstock::path {

// "2001:db8::/40", "192.0.2.1" (all bits); host bits are cleared. nullopt: malformed.
[[nodiscard]] std::optional<Prefix> parse_prefix(std::string_view text);

// Under 64:ff9b::/96 with an IPv4 address that RFC 5735 §3 (RFC 6890) lists as not global: RFC 6052 §3.1 has packets
// with such addresses dropped.
[[nodiscard]] bool is_well_known_and_not_global(const IpAddress& address);

// What no router passes on, be it source or destination: "this" network, loopback, link-local, multicast and broadcast
// (RFC 1812 §5.3.7, RFC 3927 §2.7, RFC 4291 §2.5, §2.7). Class E is not among them: hosts and translators carry it.
[[nodiscard]] bool is_never_forwarded(const IpAddress& address);

class AddressMap {
 public:
  // "198.51.100.8=2001:db8::8", "192.0.2.0/24=2001:db8:a::/120" (either order), "2001:db8:64::/96". False: malformed;
  // `error` says why.
  bool add(std::string_view text, std::string& error);

  struct Mapped {
    IpAddress address;
    bool by_prefix = false;  // RFC 6052; otherwise by an explicit pair
  };
  // The explicit pair of the longest prefix first, then the first RFC 6052 prefix. nullopt: not mapped.
  [[nodiscard]] std::optional<Mapped> to_v6(const IpAddress& v4) const;
  [[nodiscard]] std::optional<Mapped> to_v4(const IpAddress& v6) const;
  // Without explicit pairs, as hairpinning needs it (RFC 7757 §4.2).
  [[nodiscard]] std::optional<IpAddress> to_v6_by_prefix(const IpAddress& v4) const;
  [[nodiscard]] bool has_pair(const IpAddress& v4) const;
  // Whether somebody has written a mapping for just this range, however odd it is.
  [[nodiscard]] bool is_meant(const IpAddress& address) const;
  [[nodiscard]] bool has_pairs() const { return !pairs_.empty(); }
  [[nodiscard]] bool empty() const { return pairs_.empty() && prefixes_.empty(); }

 private:
  struct Pair {
    Prefix v4;
    Prefix v6;
  };
  std::vector<Pair> pairs_;
  std::vector<Prefix> prefixes_;
};

}  // namespace penstock::path
