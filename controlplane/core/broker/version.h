// Which protocol versions may be joined (docs/protocol.md, "Versions"). Two integers, compared as numbers: 1.10 is
// newer than 1.9. Pure.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "penstock/v1/common.pb.h"

namespace penstock {

struct ProtocolVersion {
  std::uint32_t major = 0;
  std::uint32_t minor = 0;

  auto operator<=>(const ProtocolVersion&) const = default;
  [[nodiscard]] std::string to_string() const { return std::to_string(major) + "." + std::to_string(minor); }
};

// What this tree speaks.
inline constexpr ProtocolVersion kProtocolVersion{1, 1};

// "major.minor"; nullopt when malformed.
[[nodiscard]] std::optional<ProtocolVersion> parse_protocol_version(std::string_view text);

// A version of `text` that this tree can speak: 1.0 or 1.1.
[[nodiscard]] std::optional<ProtocolVersion> spoken_protocol(std::string_view text);

// Majors equal and 0 <= gateway.minor - client.minor <= 1, without ever computing a negative number.
[[nodiscard]] constexpr bool may_be_joined(ProtocolVersion client, ProtocolVersion gateway) {
  return client.major == gateway.major && gateway.minor >= client.minor && gateway.minor - client.minor <= 1;
}

[[nodiscard]] inline ProtocolVersion from_proto(const v1::ProtocolVersion& version) {
  return {version.major(), version.minor()};
}
[[nodiscard]] inline v1::ProtocolVersion to_proto(ProtocolVersion version) {
  v1::ProtocolVersion out;
  out.set_major(version.major);
  out.set_minor(version.minor);
  return out;
}

}  // namespace penstock
