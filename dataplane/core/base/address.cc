#include "dataplane/core/base/address.h"

#include <arpa/inet.h>

#include <charconv>

#include "dataplane/core/base/address_words.h"

namespace penstock {
namespace {

std::optional<unsigned> parse_number(std::string_view text, unsigned max) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > max || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

IpAddress IpAddress::from_wire(Bytes wire) {
  IpAddress out;
  if (wire.size() == 4) return v4(std::array<std::uint8_t, 4>{wire[0], wire[1], wire[2], wire[3]});
  if (wire.size() == 16) std::memcpy(out.bytes_.data(), wire.data(), 16);
  return out;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string copy{text};
  if (copy.find('\0') != std::string::npos) return std::nullopt;
  std::array<std::uint8_t, 4> four{};
  if (inet_pton(AF_INET, copy.c_str(), four.data()) == 1) return v4(four);
  std::array<std::uint8_t, 16> six{};
  if (inet_pton(AF_INET6, copy.c_str(), six.data()) == 1) return v6(six);
  return std::nullopt;
}

std::string IpAddress::to_string() const {
  char text[INET6_ADDRSTRLEN];
  const bool four = is_v4();
  inet_ntop(four ? AF_INET : AF_INET6, bytes_.data() + (four ? 12 : 0), text, sizeof text);
  return text;
}

Prefix::Prefix(const IpAddress& address, unsigned length) {
  const bool four = address.is_v4();
  const unsigned max = four ? 32 : 128;
  length_ = static_cast<std::uint8_t>(length > max ? max : length);
  const unsigned kept = length_ + (four ? 96U : 0U);
  std::array<std::uint8_t, 16> bytes = address.bytes();
  if (kept % 8 != 0) bytes[kept / 8] &= static_cast<std::uint8_t>(0xff00U >> (kept % 8));
  for (std::size_t i = (kept + 7) / 8; i < 16; ++i) bytes[i] = 0;
  address_ = IpAddress::v6(bytes);
}

std::optional<Prefix> Prefix::parse(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto address = IpAddress::parse(text.substr(0, slash));
  if (!address) return std::nullopt;
  const unsigned max = address->is_v4() ? 32 : 128;
  if (slash == std::string_view::npos) return Prefix{*address, max};
  const auto length = parse_number(text.substr(slash + 1), max);
  if (!length) return std::nullopt;
  const Prefix prefix{*address, *length};
  if (prefix.address() != *address) return std::nullopt;
  return prefix;
}

bool Prefix::contains(const IpAddress& address) const {
  // Asked for every new flow against many prefixes, so without building a masked copy. A v4-mapped address differs from
  // an IPv6 prefix's by value, except where that prefix covers ::ffff:0:0/96.
  const AddressWords ours = AddressWords::of(address_), theirs = AddressWords::of(address);
  if (ours.is_v4() != theirs.is_v4()) return false;
  const unsigned kept = length_ + (ours.is_v4() ? 96U : 0U);
  static_assert(std::endian::native == std::endian::little);
  const std::uint64_t high = __builtin_bswap64(ours.high ^ theirs.high);
  const std::uint64_t low = __builtin_bswap64(ours.low ^ theirs.low);
  if (kept < 64) return kept == 0 || high >> (64 - kept) == 0;
  return high == 0 && (kept == 64 || low >> (128 - kept) == 0);
}

std::string Prefix::to_string() const { return address_.to_string() + "/" + std::to_string(length_); }

std::optional<Endpoint> Endpoint::parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const auto address = IpAddress::parse(host);
  const auto port = parse_number(text.substr(colon + 1), 65535);
  if (!address || !port || bracketed != (host.find(':') != std::string_view::npos)) return std::nullopt;
  return Endpoint{*address, static_cast<std::uint16_t>(*port)};
}

std::string Endpoint::to_string() const {
  const std::string host = address.to_string();
  return (address.is_v4() ? host : "[" + host + "]") + ":" + std::to_string(port);
}

std::string Path::to_string() const {
  return local.to_string() + " -> " + remote.to_string() + (relay == 0 ? "" : " via relay " + std::to_string(relay));
}

std::size_t hash_value(const IpAddress& address) {
  std::uint64_t high;
  std::uint64_t low;
  std::memcpy(&high, address.bytes().data(), 8);
  std::memcpy(&low, address.bytes().data() + 8, 8);
  std::uint64_t mixed = (high ^ 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;
  mixed = (mixed ^ (mixed >> 32) ^ low) * 0xc4ceb9fe1a85ec53ULL;
  return mixed ^ (mixed >> 29);
}

std::size_t hash_value(const Endpoint& endpoint) {
  return (hash_value(endpoint.address) ^ endpoint.port) * 0x9e3779b97f4a7c15ULL;
}

}  // namespace penstock
