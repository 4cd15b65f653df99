#include "dataplane/core/nat/fitting.h"

#include <algorithm>

#include "dataplane/core/nat/translate.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::nat {
namespace {

constexpr std::uint32_t kHeaderDifference = sizeof(Ipv6Header) - sizeof(Ipv4Header);

}  // namespace

Fitting fit_packet(const IpView& view, bool to6, std::uint16_t mtu, std::uint16_t lowest6) {
  const std::uint32_t length = translated_length(view, to6);
  const std::uint32_t with_fragment = kHeaderDifference + sizeof(Ipv6FragmentHeader);
  if (view.v6() == to6) {
    if (length <= mtu) return {};
    if (!to6 && !view.dont_fragment) return {Fit::cut, mtu, 0};
    return {Fit::too_big, mtu, mtu};
  }
  if (to6) {
    const std::uint16_t limit = view.dont_fragment ? mtu : std::min(mtu, lowest6);
    if (length <= limit) return {};
    if (!view.dont_fragment) return {Fit::cut, limit, 0};
    return {Fit::too_big, mtu, mtu - (view.fragment() ? with_fragment : kHeaderDifference)};
  }
  if (length <= mtu) return {};
  if (view.has_fragment_header || length <= kIpv6MinimumMtu - kHeaderDifference) return {Fit::cut, mtu, 0};
  return {Fit::too_big, mtu, std::max<std::uint32_t>(mtu + kHeaderDifference, kIpv6MinimumMtu)};
}

}  // namespace penstock::nat
