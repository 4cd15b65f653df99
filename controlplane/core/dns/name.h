// Domain names: on the wire, as text, and as people write them.
//
// `WireName` is an uncompressed name of at most 255 bytes with the case it came in. Text is what patterns, the name map
// and the gateway use: lower case, A-labels, no final dot. A wire name that has no unambiguous text (a label with a
// dot, a space, a control character, or bytes that are not valid IDNA) has no text and so falls under no Resource. Pure
// functions; malformed input gives nullopt. RFC 1035 §3.1 and §4.1.4, RFC 5891.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"

namespace penstock::dns {

inline constexpr std::size_t kMaxWireName = 255;
inline constexpr std::size_t kMaxLabel = 63;

struct WireName {
  std::array<std::uint8_t, kMaxWireName> storage{};
  std::size_t size = 0;  // 0: none; the root has 1

  [[nodiscard]] Bytes bytes() const { return Bytes{storage}.first(size); }
  [[nodiscard]] bool is_root() const { return size == 1; }
};

[[nodiscard]] constexpr std::uint8_t ascii_lower(std::uint8_t c) {
  return c >= 'A' && c <= 'Z' ? static_cast<std::uint8_t>(c + ('a' - 'A')) : c;
}

// Reads the name at `offset`, following compression pointers (which may only point backwards), and moves `offset`
// behind it. nullopt: malformed; `offset` is then meaningless.
[[nodiscard]] std::optional<WireName> read_name(Bytes message, std::size_t& offset);

// Ignoring ASCII case (RFC 4343). Length bytes are below 64 and so never change.
[[nodiscard]] bool same_name(Bytes a, Bytes b);
// Lower-case copy as a string, for use as a key.
[[nodiscard]] std::string name_key(Bytes name);

// Text of an uncompressed wire name into `out` (replaced, so that its memory can be used again and again). False: it
// has none, or is the root.
bool name_text(Bytes name, std::string& out);
[[nodiscard]] std::optional<std::string> name_text(Bytes name);
// From text as name_text gives it.
[[nodiscard]] std::optional<WireName> wire_name(std::string_view text);

// Names and patterns as people write them: IDNA for labels that are not ASCII, lower case, without a final dot.
// Wildcards may not stand inside a label that needs IDNA.
[[nodiscard]] std::optional<std::string> ascii_name(std::string_view written);

// True for what name_text can give.
[[nodiscard]] bool is_normalised(std::string_view text);

// 4.3.2.1.in-addr.arpa, or 32 nibbles under ip6.arpa. nullopt for everything else under arpa, also for partial or odd
// spellings (leading zeros). `text`: from name_text.
[[nodiscard]] std::optional<IpAddress> reverse_address(std::string_view text);

}  // namespace penstock::dns
