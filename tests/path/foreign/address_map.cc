#include "tests/path/foreign/address_map.h"

#include <algorithm>
#include <charconv>

#include "dataplane/core/policy/forbidden.h"

namespace penstock::path {
namespace {

// The `bits` bits of `from` behind its prefix come to stand right behind the prefix of `to` (RFC 7757 §3.3).
void copy_suffix(const IpAddress& from, unsigned from_begin, std::array<std::uint8_t, 16>& to, unsigned to_begin,
                 unsigned bits) {
  for (unsigned i = 0; i < bits; ++i) {
    const unsigned source = from_begin + i;
    const unsigned target = to_begin + i;
    const bool bit = (from.bytes()[source / 8] >> (7 - source % 8) & 1) != 0;
    const auto mask = static_cast<std::uint8_t>(0x80U >> target % 8);
    to[target / 8] = static_cast<std::uint8_t>(bit ? to[target / 8] | mask : to[target / 8] & ~mask);
  }
}

constexpr unsigned kV4Begin = 96;  // of an IPv4 address in its v4-mapped form

}  // namespace

std::optional<Prefix> parse_prefix(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto address = IpAddress::parse(text.substr(0, slash));
  if (!address) return std::nullopt;
  const unsigned most = address->is_v4() ? 32 : 128;
  if (slash == std::string_view::npos) return Prefix{*address, most};
  unsigned length = 0;
  const std::string_view digits = text.substr(slash + 1);
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  if (code != std::errc{} || end != digits.data() + digits.size() || length > most) return std::nullopt;
  return Prefix{*address, length};
}

bool is_well_known_and_not_global(const IpAddress& address) {
  static const Prefix kWellKnown{IpAddress::v6({0x00, 0x64, 0xff, 0x9b}), 96};
  static const std::vector<Prefix> kNotGlobal = [] {
    std::vector<Prefix> out;
    for (const char* text :
         {"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
          "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
          "240.0.0.0/4"})
      out.push_back(*parse_prefix(text));
    return out;
  }();
  if (!address.is_v6() || !kWellKnown.contains(address)) return false;
  const IpAddress v4 = policy::extract_v4(kWellKnown, address);
  return std::any_of(kNotGlobal.begin(), kNotGlobal.end(), [&](const Prefix& range) { return range.contains(v4); });
}

bool is_never_forwarded(const IpAddress& address) {
  static const std::vector<Prefix> kRanges = [] {
    std::vector<Prefix> out;
    for (const char* text : {"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255", "::",
                             "::1", "fe80::/10", "ff00::/8"})
      out.push_back(*parse_prefix(text));
    return out;
  }();
  return std::any_of(kRanges.begin(), kRanges.end(), [&](const Prefix& range) { return range.contains(address); });
}

bool AddressMap::add(std::string_view text, std::string& error) {
  const std::size_t equals = text.find('=');
  const auto first = parse_prefix(text.substr(0, equals));
  if (equals == std::string_view::npos) {
    if (!first || first->address().is_v4() || !policy::is_rfc6052_length(first->length())) {
      error = "needs V4=V6, or an IPv6 prefix of length 32, 40, 48, 56, 64 or 96 (RFC 6052)";
      return false;
    }
    prefixes_.push_back(*first);
    return true;
  }
  const auto second = parse_prefix(text.substr(equals + 1));
  if (!first || !second || first->address().is_v4() == second->address().is_v4()) {
    error = "needs an IPv4 and an IPv6 address or prefix";
    return false;
  }
  const Pair pair = first->address().is_v4() ? Pair{*first, *second} : Pair{*second, *first};
  if (32 - pair.v4.length() > 128 - pair.v6.length()) {
    error = "the IPv6 prefix has fewer addresses than the IPv4 prefix (RFC 7757 §3.2)";
    return false;
  }
  pairs_.push_back(pair);
  return true;
}

std::optional<AddressMap::Mapped> AddressMap::to_v6(const IpAddress& v4) const {
  const Pair* best = nullptr;
  for (const Pair& pair : pairs_)
    if (pair.v4.contains(v4) && (best == nullptr || pair.v4.length() > best->v4.length())) best = &pair;
  if (best != nullptr) {
    std::array<std::uint8_t, 16> bytes = best->v6.address().bytes();
    copy_suffix(v4, kV4Begin + best->v4.length(), bytes, best->v6.length(), 32 - best->v4.length());
    return Mapped{IpAddress::v6(bytes), false};
  }
  if (const auto embedded = to_v6_by_prefix(v4)) return Mapped{*embedded, true};
  return std::nullopt;
}

std::optional<AddressMap::Mapped> AddressMap::to_v4(const IpAddress& v6) const {
  const Pair* best = nullptr;
  for (const Pair& pair : pairs_)
    if (pair.v6.contains(v6) && (best == nullptr || pair.v6.length() > best->v6.length())) best = &pair;
  if (best != nullptr) {
    std::array<std::uint8_t, 16> bytes = best->v4.address().bytes();
    copy_suffix(v6, best->v6.length(), bytes, kV4Begin + best->v4.length(), 32 - best->v4.length());
    return Mapped{IpAddress::v4({bytes[12], bytes[13], bytes[14], bytes[15]}), false};
  }
  for (const Prefix& prefix : prefixes_)
    if (prefix.contains(v6)) return Mapped{policy::extract_v4(prefix, v6), true};
  return std::nullopt;
}

std::optional<IpAddress> AddressMap::to_v6_by_prefix(const IpAddress& v4) const {
  if (prefixes_.empty()) return std::nullopt;
  return policy::embed_v4(prefixes_.front(), v4);
}

bool AddressMap::has_pair(const IpAddress& v4) const {
  return std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) { return pair.v4.contains(v4); });
}

bool AddressMap::is_meant(const IpAddress& address) const {
  return std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) {
    const Prefix& range = address.is_v4() ? pair.v4 : pair.v6;
    return range.contains(address) && range.length() >= 8;
  });
}

}  // namespace penstock::path
