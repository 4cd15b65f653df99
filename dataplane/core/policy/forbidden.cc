#include "dataplane/core/policy/forbidden.h"

#include <algorithm>

namespace penstock::policy {
namespace {

constexpr IpAddress v6(std::initializer_list<std::uint16_t> groups) {
  std::array<std::uint8_t, 16> bytes{};
  std::size_t at = 0;
  for (const std::uint16_t group : groups) {
    bytes[at++] = static_cast<std::uint8_t>(group >> 8);
    bytes[at++] = static_cast<std::uint8_t>(group);
  }
  return IpAddress::v6(bytes);
}

constexpr IpAddress v4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) {
  return IpAddress::v4(std::array<std::uint8_t, 4>{a, b, c, d});
}

// Nothing a gateway should ever send to on somebody's behalf.
const std::vector<Prefix>& always_forbidden() {
  static const std::vector<Prefix> ranges = {
      {v4(0, 0, 0, 0), 8},           // this network, unspecified
      {v4(127, 0, 0, 0), 8},         // loopback
      {v4(169, 254, 0, 0), 16},      // link-local, metadata
      {v4(224, 0, 0, 0), 3},         // multicast, reserved, broadcast
      {v4(100, 100, 100, 200), 32},  // metadata services of clouds
      {v4(168, 63, 129, 16), 32},
      {v4(192, 0, 0, 192), 32},
      {v6({}), 127},       // unspecified, loopback
      {v6({0xfe80}), 10},  // link-local
      {v6({0xff00}), 8},   // multicast
      {v6({0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254}), 128},
      {v6({0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254}), 128},
  };
  return ranges;
}

// RFC 6890 and the registries it founded.
const std::vector<Prefix>& not_internet() {
  static const std::vector<Prefix> ranges = {
      {v4(10, 0, 0, 0), 8},   {v4(100, 64, 0, 0), 10},  {v4(172, 16, 0, 0), 12},
      {v4(192, 0, 0, 0), 24}, {v4(192, 168, 0, 0), 16}, {v4(198, 18, 0, 0), 15},
      {v6({0xfc00}), 7},      {v6({0xfec0}), 10},       {v6({0x0100}), 64},
  };
  return ranges;
}

bool any_contains(const std::vector<Prefix>& ranges, const IpAddress& address) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const Prefix& range) { return range.contains(address); });
}

const Prefix& well_known_nat64() {
  static const Prefix prefix{v6({0x0064, 0xff9b}), 96};
  return prefix;
}

}  // namespace

bool is_rfc6052_length(unsigned length) {
  return length == 32 || length == 40 || length == 48 || length == 56 || length == 64 || length == 96;
}

IpAddress extract_v4(const Prefix& prefix, const IpAddress& address) {
  std::array<std::uint8_t, 4> out{};
  std::size_t at = prefix.length() / 8;
  for (std::uint8_t& octet : out) {
    if (at == 8) ++at;  // bits 64-71, the "u" octet, are skipped
    octet = address.bytes()[at++];
  }
  return IpAddress::v4(out);
}

IpAddress embed_v4(const Prefix& prefix, const IpAddress& v4_address) {
  std::array<std::uint8_t, 16> bytes = prefix.address().bytes();
  std::size_t at = prefix.length() / 8;
  for (const std::uint8_t octet : v4_address.wire()) {
    if (at == 8) ++at;
    bytes[at++] = octet;
  }
  return IpAddress::v6(bytes);
}

ForbiddenDestinations::ForbiddenDestinations(std::vector<Prefix> ranges, std::vector<Prefix> nat64_prefixes) {
  for (const Prefix& range : always_forbidden()) add(range);
  for (const Prefix& range : ranges) add(range);
  for (const Prefix& prefix : nat64_prefixes)
    if (prefix.address().is_v6() && is_rfc6052_length(prefix.length())) nat64_prefixes_.push_back(prefix);
}

EmbeddedV4 ForbiddenDestinations::embedded_v4(const IpAddress& address) const {
  EmbeddedV4 out;
  const auto add = [&out](const IpAddress& found) {
    if (out.count < out.addresses.size()) out.addresses[out.count++] = found;
  };
  const auto& bytes = address.bytes();
  const auto octets = [&bytes](std::size_t at) { return v4(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]); };
  if (address.is_v4()) {
    add(address);
    return out;
  }
  static const Prefix kCompatible{v6({}), 96};
  static const Prefix kLocalNat64{v6({0x0064, 0xff9b, 0x0001}), 48};
  static const Prefix k6to4{v6({0x2002}), 16};
  static const Prefix kTeredo{v6({0x2001, 0x0000}), 32};
  if (kCompatible.contains(address) || well_known_nat64().contains(address)) add(octets(12));
  if (kLocalNat64.contains(address)) {
    add(octets(12));  // somebody's /96 in it, or the whole /48
    add(extract_v4(kLocalNat64, address));
  }
  if (k6to4.contains(address)) add(octets(2));
  if (kTeredo.contains(address)) {
    add(octets(4));
    add(v4(static_cast<std::uint8_t>(bytes[12] ^ 0xff), static_cast<std::uint8_t>(bytes[13] ^ 0xff),
           static_cast<std::uint8_t>(bytes[14] ^ 0xff), static_cast<std::uint8_t>(bytes[15] ^ 0xff)));
  }
  if ((bytes[8] & 0xfd) == 0 && bytes[9] == 0 && bytes[10] == 0x5e && bytes[11] == 0xfe) add(octets(12));  // ISATAP
  for (const Prefix& prefix : nat64_prefixes_)
    if (prefix.contains(address)) add(extract_v4(prefix, address));
  return out;
}

void ForbiddenDestinations::add(const Prefix& range) {
  const unsigned length = range.length();
  if (range.address().is_v4()) {
    v4_.push_back({range.address().v4_value(), length == 0 ? 0U : ~std::uint32_t{0} << (32 - length)});
    return;
  }
  std::array<std::uint8_t, 16> mask{};
  for (unsigned bit = 0; bit < length; ++bit) mask[bit / 8] |= static_cast<std::uint8_t>(0x80U >> (bit % 8));
  v6_.push_back({AddressWords::of(range.address()), AddressWords::of_v6(mask.data())});
}

bool ForbiddenDestinations::plainly(const IpAddress& address) const {
  bool found = false;  // no way out of the loops: they are short, and the answer is nearly always no
  if (address.is_v4()) {
    const std::uint32_t value = address.v4_value();
    for (const RangeV4& range : v4_) found |= ((value ^ range.address) & range.mask) == 0;
    return found;
  }
  const AddressWords words = AddressWords::of(address);
  for (const RangeV6& range : v6_)
    found |= (((words.high ^ range.address.high) & range.mask.high) |
              ((words.low ^ range.address.low) & range.mask.low)) == 0;
  return found;
}

bool ForbiddenDestinations::contains(const IpAddress& destination) const {
  if (plainly(destination)) return true;
  if (destination.is_v4()) return false;
  const EmbeddedV4 embedded = embedded_v4(destination);
  return std::any_of(embedded.all().begin(), embedded.all().end(), [this](const IpAddress& a) { return plainly(a); });
}

bool outside_internet(const IpAddress& address) {
  static const ForbiddenDestinations none{{}, {}};
  if (none.contains(address) || any_contains(not_internet(), address)) return true;
  if (address.is_v4()) return false;
  const EmbeddedV4 embedded = none.embedded_v4(address);
  return std::any_of(embedded.all().begin(), embedded.all().end(),
                     [](const IpAddress& a) { return any_contains(not_internet(), a); });
}

}  // namespace penstock::policy
