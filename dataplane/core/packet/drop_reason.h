// Why a packet does not go on. The list is drop_reason.def; every consumer (enum, text, metric, trace) is generated
// from it, so a reason without a text or a counter cannot exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace penstock {

enum class DropReason : std::uint8_t {
  none = 0,  // not dropped
#define PENSTOCK_DROP_REASON(name, text) name,
#include "dataplane/core/packet/drop_reason.def"
#undef PENSTOCK_DROP_REASON
  count_,
};

inline constexpr std::size_t kDropReasonCount = static_cast<std::size_t>(DropReason::count_);

namespace detail {
struct DropReasonText {
  std::string_view name;
  std::string_view text;
};
inline constexpr DropReasonText kDropReasonTexts[] = {
    {"none", "not dropped"},
#define PENSTOCK_DROP_REASON(name, text) {#name, text},
#include "dataplane/core/packet/drop_reason.def"
#undef PENSTOCK_DROP_REASON
};
static_assert(sizeof kDropReasonTexts / sizeof kDropReasonTexts[0] == kDropReasonCount);
}  // namespace detail

// Identifier as used in metrics and JSON.
[[nodiscard]] constexpr std::string_view name_of(DropReason reason) {
  return detail::kDropReasonTexts[static_cast<std::size_t>(reason)].name;
}
// Words for people.
[[nodiscard]] constexpr std::string_view text_of(DropReason reason) {
  return detail::kDropReasonTexts[static_cast<std::size_t>(reason)].text;
}

}  // namespace penstock
