// What the policies say about one client and one resource at one moment. Pure.
#pragma once

#include <optional>
#include <string>

#include "controlplane/core/broker/config.h"

namespace penstock::broker {

struct Decision {
  bool visible = false;             // some policy of the client's groups names the resource
  bool allowed = false;             // ... and all its conditions hold
  std::optional<WallTime> expires;  // when the last of the policies that allow it stops doing so; nullopt: never
  std::string detail;               // allowed is false: which condition failed, for an administrator
};

// `observed`: where the portal sees the client come from; nullopt (not connected) leaves address ranges unjudged, they
// are judged when it returns.
[[nodiscard]] Decision judge(const BrokerConfig& config, const std::string& client, const std::string& resource,
                             const std::optional<IpAddress>& observed, WallTime wall);

// End of the window that `wall` lies in; nullopt when it lies outside.
[[nodiscard]] std::optional<WallTime> window_end(const TimeWindow& window, WallTime wall);

}  // namespace penstock::broker
