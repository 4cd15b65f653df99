#include "controlplane/core/broker/decision.h"

#include <algorithm>

namespace penstock::broker {
namespace {

constexpr std::uint64_t kDay = 24 * 60 * 60;

std::optional<WallTime> earlier(std::optional<WallTime> a, std::optional<WallTime> b) {
  if (!a) return b;
  if (!b) return a;
  return std::min(*a, *b);
}

// What one policy's conditions say.
Decision judge_conditions(const Conditions& conditions, const std::optional<IpAddress>& observed, WallTime wall) {
  Decision out;
  out.visible = true;
  if (conditions.expires) {
    if (wall >= *conditions.expires) {
      out.detail = "the policy has expired";
      return out;
    }
    out.expires = conditions.expires;
  }
  if (!conditions.time_windows.empty()) {
    // Of overlapping windows the one that lasts longest counts.
    std::optional<WallTime> end;
    for (const TimeWindow& window : conditions.time_windows)
      if (const auto until = window_end(window, wall)) end = end ? std::max(*end, *until) : *until;
    if (!end) {
      out.detail = "outside the policy's time windows";
      return out;
    }
    out.expires = earlier(out.expires, end);
  }
  if (!conditions.client_ranges.empty() && observed) {
    const bool inside = std::any_of(conditions.client_ranges.begin(), conditions.client_ranges.end(),
                                    [&](const Prefix& range) { return range.contains(*observed); });
    if (!inside) {
      out.detail = "client_ranges do not contain " + observed->to_string();
      return out;
    }
  }
  out.allowed = true;
  return out;
}

}  // namespace

std::optional<WallTime> window_end(const TimeWindow& window, WallTime wall) {
  const std::uint64_t from = std::uint64_t{window.from_minute} * 60;
  const std::uint64_t to = std::uint64_t{window.to_minute} * 60;
  const std::uint64_t length = to > from ? to - from : to + kDay - from;
  const std::uint64_t today = wall.seconds / kDay;
  // A window over midnight may have started yesterday.
  for (std::uint64_t back = 0; back <= 1 && back <= today; ++back) {
    const std::uint64_t day = today - back;
    const unsigned weekday = static_cast<unsigned>((day + 4) % 7);  // 1970-01-01 was a Thursday
    if ((window.days >> weekday & 1) == 0) continue;
    const std::uint64_t start = day * kDay + from;
    if (wall.seconds >= start && wall.seconds < start + length) return WallTime{start + length, 0};
  }
  return std::nullopt;
}

Decision judge(const BrokerConfig& config, const std::string& client, const std::string& resource,
               const std::optional<IpAddress>& observed, WallTime wall) {
  Decision out;
  const auto actor = config.clients.find(client);
  if (actor == config.clients.end() || !config.resources.contains(resource)) return out;
  for (const Policy& policy : config.policies) {
    if (policy.resource != resource || !actor->second.groups.contains(policy.group)) continue;
    Decision one = judge_conditions(policy.conditions, observed, wall);
    if (!one.allowed) {
      out.visible = true;
      if (!out.allowed && out.detail.empty()) out.detail = std::move(one.detail);
    } else if (!out.allowed) {
      out = std::move(one);
    } else {
      out.expires = out.expires && one.expires ? std::optional{std::max(*out.expires, *one.expires)} : std::nullopt;
    }
  }
  return out;
}

}  // namespace penstock::broker
