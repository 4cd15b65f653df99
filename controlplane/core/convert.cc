#include "controlplane/core/convert.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

namespace penstock {
namespace {

Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string to_wire(const IpAddress& address) {
  const Bytes wire = address.wire();
  return {reinterpret_cast<const char*>(wire.data()), wire.size()};
}

std::optional<IpAddress> address_from_wire(std::string_view bytes) {
  if (bytes.size() != 4 && bytes.size() != 16) return std::nullopt;
  return IpAddress::from_wire(as_bytes(bytes));
}

v1::Endpoint to_proto(const Endpoint& endpoint) {
  v1::Endpoint out;
  out.set_address(to_wire(endpoint.address));
  out.set_port(endpoint.port);
  return out;
}

std::optional<Endpoint> from_proto(const v1::Endpoint& endpoint) {
  const auto address = address_from_wire(endpoint.address());
  if (!address || endpoint.port() == 0 || endpoint.port() > 65535) return std::nullopt;
  return Endpoint{*address, static_cast<std::uint16_t>(endpoint.port())};
}

v1::IpPrefix to_proto(const Prefix& prefix) {
  v1::IpPrefix out;
  out.set_address(to_wire(prefix.address()));
  out.set_length(prefix.length());
  return out;
}

std::optional<Prefix> from_proto(const v1::IpPrefix& prefix) {
  const auto address = address_from_wire(prefix.address());
  if (!address || prefix.length() > prefix.address().size() * 8) return std::nullopt;
  // A mapped address in 16 bytes would be taken for IPv4 with a length of the wrong family.
  if (address->is_v4() && prefix.length() > 32) return std::nullopt;
  const Prefix out{*address, prefix.length()};
  if (out.address() != *address) return std::nullopt;
  return out;
}

v1::Candidate to_proto(const Endpoint& endpoint, v1::CandidateKind kind) {
  v1::Candidate out;
  out.set_kind(kind);
  *out.mutable_endpoint() = to_proto(endpoint);
  return out;
}

google::protobuf::Timestamp to_proto(WallTime time) {
  google::protobuf::Timestamp out;
  out.set_seconds(static_cast<std::int64_t>(time.seconds));
  out.set_nanos(static_cast<std::int32_t>(time.nanoseconds));
  return out;
}

WallTime from_proto(const google::protobuf::Timestamp& time) {
  if (time.seconds() < 0 || time.nanos() < 0 || time.nanos() > 999'999'999) return {0, 1};
  if (time.seconds() == 0 && time.nanos() == 0) return {0, 1};
  return {static_cast<std::uint64_t>(time.seconds()), static_cast<std::uint32_t>(time.nanos())};
}

std::optional<Key> key_from_wire(std::string_view bytes) {
  Key out{};
  if (bytes.size() != out.size()) return std::nullopt;
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(out.data()));
  if (std::all_of(out.begin(), out.end(), [](std::uint8_t byte) { return byte == 0; })) return std::nullopt;
  return out;
}

std::string base64(std::string_view bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), as_bytes(bytes).data(),
                                      static_cast<int>(bytes.size()));
  out.resize(static_cast<std::size_t>(written));
  return out;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string out(text.size() / 4 * 3, '\0');
  const int written = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), as_bytes(text).data(),
                                      static_cast<int>(text.size()));
  if (written < 0 || static_cast<std::size_t>(written) != out.size()) return std::nullopt;
  out.resize(out.size() - padding);
  // EVP_DecodeBlock takes blanks at the ends and stray padding; encoding back accepts only the one canonical text.
  if (base64(out) != text) return std::nullopt;
  return out;
}

std::string hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

std::optional<std::string> from_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::string out;
  out.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<char>(high << 4 | low));
  }
  return out;
}

}  // namespace penstock
