// Between protobuf messages and the core's types. Messages come from outside: every reader is total, and what cannot be
// represented (an address that is neither 4 nor 16 bytes, a port above 65535, a prefix longer than its family) is
// nullopt, never a guess. Thread-safe (pure functions).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "penstock/v1/common.pb.h"

namespace penstock {

// A WireGuard public key or preshared key as control messages carry it.
using Key = std::array<std::uint8_t, 32>;

[[nodiscard]] std::string to_wire(const IpAddress& address);  // 4 or 16 bytes; :: becomes 16 zero bytes
[[nodiscard]] std::optional<IpAddress> address_from_wire(std::string_view bytes);  // empty: nullopt

[[nodiscard]] v1::Endpoint to_proto(const Endpoint& endpoint);
[[nodiscard]] std::optional<Endpoint> from_proto(const v1::Endpoint& endpoint);  // port 0 is refused

[[nodiscard]] v1::IpPrefix to_proto(const Prefix& prefix);
[[nodiscard]] std::optional<Prefix> from_proto(const v1::IpPrefix& prefix);  // host bits set: nullopt

[[nodiscard]] v1::Candidate to_proto(const Endpoint& endpoint, v1::CandidateKind kind);

[[nodiscard]] google::protobuf::Timestamp to_proto(WallTime time);
// A timestamp before 1970 or with impossible nanoseconds is {0, 1}: long past, and never "unset".
[[nodiscard]] WallTime from_proto(const google::protobuf::Timestamp& time);

[[nodiscard]] std::optional<Key> key_from_wire(std::string_view bytes);  // exactly 32 bytes, not all zero
[[nodiscard]] inline std::string_view as_text(const Key& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

[[nodiscard]] std::string base64(std::string_view bytes);
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);  // strict, padded
[[nodiscard]] std::string hex(std::string_view bytes);
[[nodiscard]] std::optional<std::string> from_hex(std::string_view text);  // either case

}  // namespace penstock
