// Makes an answer of somebody else fit for the client: no address of a name under a Resource stays in it.
//
// - A or AAAA question whose CNAME chain (or the question itself) reaches a name under a Resource: the chain up to that
//   name, then its proxy address; nothing else of the answer is kept, whatever its code was.
// - Elsewhere, in every section: A and AAAA of such a name become its proxy address; other records that bear addresses
//   of such a name or of what it is an alias of (HTTPS, SVCB, APL, IPSECKEY, L32 ...) and signatures over what was
//   changed go. A changed answer has no AD bit.
// - The OPT record is taken off and given separately, since it belongs to one hop and one client (RFC 6891 §6.1.1).
//
// Pure function; malformed gives nullopt.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "controlplane/core/dns/message.h"
#include "dataplane/core/base/address.h"

namespace penstock::dns {

// What the client may be told about a name under a Resource.
struct NameRule {
  std::optional<IpAddress> v4;  // its proxy addresses; nullopt: that family is suppressed
  std::optional<IpAddress> v6;
};
// nullopt: the name is under no Resource.
using NameRules = std::function<std::optional<NameRule>(const WireName&)>;

// Records of this type bear addresses, or hints of them.
[[nodiscard]] bool bears_address(std::uint16_t type);

struct FilteredAnswer {
  std::vector<std::uint8_t> message;  // without OPT
  std::size_t question_end = kHeaderSize;
  std::uint16_t code = 0;  // 12 bits, with the part from OPT
  bool truncated = false;
  bool rewritten = false;
  bool had_opt = false;
  bool dnssec_ok = false;
  std::vector<std::uint8_t> options;  // raw, of OPT
  // Seconds this may be kept: least TTL, or the SOA's for denials (RFC 2308); 0: not at all.
  std::uint32_t cache_ttl = 0;
};

[[nodiscard]] std::optional<FilteredAnswer> filter_answer(Bytes message, const NameRules& rules,
                                                          std::uint32_t proxy_ttl);

// Subtracts `elapsed` seconds from every TTL of a message without OPT (not below 1).
void age_ttls(std::vector<std::uint8_t>& message, std::uint32_t elapsed);

}  // namespace penstock::dns
