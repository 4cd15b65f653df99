#include "controlplane/core/broker/version.h"

#include <charconv>

namespace penstock {

std::optional<ProtocolVersion> parse_protocol_version(std::string_view text) {
  ProtocolVersion out;
  const char* const end = text.data() + text.size();
  const auto major = std::from_chars(text.data(), end, out.major);
  if (major.ec != std::errc{} || major.ptr == end || *major.ptr != '.') return std::nullopt;
  const auto minor = std::from_chars(major.ptr + 1, end, out.minor);
  if (minor.ec != std::errc{} || minor.ptr != end) return std::nullopt;
  return out;
}

std::optional<ProtocolVersion> spoken_protocol(std::string_view text) {
  const auto version = parse_protocol_version(text);
  return version && version->major == kProtocolVersion.major && *version <= kProtocolVersion ? version : std::nullopt;
}

}  // namespace penstock
