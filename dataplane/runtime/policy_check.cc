// What an operation must satisfy before it may change anything. Messages are complete sentences without their subject:
// "tunnel address 100.64.0.2 belongs to another peer".
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "dataplane/runtime/policy_state.h"

namespace penstock::runtime {
namespace {

constexpr std::size_t kMaxIdLength = 255;
constexpr std::size_t kMaxNameLength = 253;  // RFC 1035 §2.3.4, as text without the last dot
constexpr std::size_t kMaxAddresses = 64;
constexpr std::size_t kMaxRanges = 256;
constexpr std::size_t kMaxEndpoints = 8;  // paths.md: candidates per peer
constexpr std::size_t kMaxSources = 256;

bool overlaps(const Prefix& a, const Prefix& b) {
  return a.contains(b.address()) || b.contains(a.address());
}

// Parts of the proxy pool that are somebody else's: the stub resolver's network and a cloud's metadata service.
const std::array<Prefix, 2>& reserved_proxies() {
  static const std::array<Prefix, 2> prefixes = {*Prefix::parse("100.100.111.0/24"),
                                                 *Prefix::parse("100.100.100.0/24")};
  return prefixes;
}

std::string check_text(std::string_view what, const std::string& text, std::size_t longest) {
  if (text.empty()) return fmt::format("{} is empty", what);
  if (text.size() > longest) return fmt::format("{} is longer than {} characters", what, longest);
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x21 || c == 0x7f; }))
    return fmt::format("{} has spaces or control characters", what);
  return {};
}

std::string check_ranges(const std::vector<std::pair<std::uint16_t, std::uint16_t>>& ranges) {
  if (ranges.size() > kMaxRanges) return fmt::format("filter has more than {} port ranges", kMaxRanges);
  for (const auto& [first, last] : ranges)
    if (first > last) return fmt::format("port range {}-{} ends before it starts", first, last);
  return {};
}

bool can_be_destination(const IpAddress& address) {
  if (address.is_unspecified()) return false;
  const Bytes wire = address.wire();
  if (address.is_v4()) return wire[0] != 0 && wire[0] != 127 && wire[0] < 224;
  return wire[0] != 0xff;
}

}  // namespace

std::string PolicyStore::State::check(const PeerSpec& spec) const {
  if (spec.public_key == KeyBytes{}) return "public key is all zero";
  if (spec.tunnel_v4.is_unspecified() && spec.tunnel_v6.is_unspecified()) return "has no tunnel address";
  const std::pair<const IpAddress*, const Prefix*> addresses[] = {{&spec.tunnel_v4, &pools_.tunnel_v4},
                                                                  {&spec.tunnel_v6, &pools_.tunnel_v6}};
  for (const auto& [address, pool] : addresses) {
    if (address->is_unspecified()) continue;
    if (!pool->contains(*address))
      return fmt::format("tunnel address {} is not in the pool {}", address->to_string(), pool->to_string());
    if (own_.contains(*address)) return fmt::format("tunnel address {} is the gateway's own", address->to_string());
    const auto owner = tunnel_addresses_.find(*address);
    if (owner != tunnel_addresses_.end() && owner->second != spec.public_key)
      return fmt::format("tunnel address {} belongs to another peer", address->to_string());
  }
  if (spec.extra_sources.size() > kMaxSources) return fmt::format("has more than {} allowed sources", kMaxSources);
  for (const Prefix& source : spec.extra_sources) {
    for (const Prefix* pool : {&pools_.tunnel_v4, &pools_.tunnel_v6, &pools_.proxy_v4, &pools_.proxy_v6})
      if (overlaps(source, *pool))
        return fmt::format("allowed source {} overlaps the pool {}", source.to_string(), pool->to_string());
    for (const IpAddress& own : own_)
      if (source.contains(own))
        return fmt::format("allowed source {} contains the gateway's own {}", source.to_string(), own.to_string());
  }
  if (spec.endpoints.size() > kMaxEndpoints) return fmt::format("has more than {} endpoints", kMaxEndpoints);
  for (const Endpoint& endpoint : spec.endpoints)
    if (endpoint.port == 0 || !can_be_destination(endpoint.address))
      return fmt::format("endpoint {} is not one that can be sent to", endpoint.to_string());
  return {};
}

std::string PolicyStore::State::check(const AuthorisationSpec& spec) const {
  if (std::string error = check_text("id", spec.id, kMaxIdLength); !error.empty()) return error;
  if (std::string error = check_text("resource", spec.resource, kMaxIdLength); !error.empty()) return error;
  if (!peers.contains(spec.peer)) return "peer is not known";
  if (spec.kind == policy::ResourceKind::dns) {
    if (std::string error = check_text("pattern", spec.pattern, kMaxNameLength); !error.empty()) return error;
  }
  if (spec.kind == policy::ResourceKind::address &&
      spec.prefix.length() != (spec.prefix.address().is_v4() ? 32U : 128U))
    return fmt::format("{} is not a single address", spec.prefix.to_string());
  if (spec.kind == policy::ResourceKind::address && !can_be_destination(spec.prefix.address()))
    return fmt::format("address {} is not one that can be reached", spec.prefix.address().to_string());
  if (std::string error = check_ranges(spec.filter.tcp); !error.empty()) return error;
  return check_ranges(spec.filter.udp);
}

std::string PolicyStore::State::check(const TranslationSpec& spec) const {
  if (std::string error = check_text("id", spec.id, kMaxIdLength); !error.empty()) return error;
  if (std::string error = check_text("resource", spec.resource, kMaxIdLength); !error.empty()) return error;
  if (std::string error = check_text("name", spec.name, kMaxNameLength); !error.empty()) return error;
  if (!peers.contains(spec.peer)) return "peer is not known";
  if (spec.proxy_v4.is_unspecified() && spec.proxy_v6.is_unspecified()) return "has no proxy address";
  const std::pair<const IpAddress*, const Prefix*> proxies[] = {{&spec.proxy_v4, &pools_.proxy_v4},
                                                                {&spec.proxy_v6, &pools_.proxy_v6}};
  for (const auto& [proxy, pool] : proxies) {
    if (proxy->is_unspecified()) continue;
    if (!pool->contains(*proxy))
      return fmt::format("proxy address {} is not in the pool {}", proxy->to_string(), pool->to_string());
    for (const Prefix& reserved : reserved_proxies())
      if (reserved.contains(*proxy))
        return fmt::format("proxy address {} is in the reserved {}", proxy->to_string(), reserved.to_string());
    if (const auto users = proxies_.find({spec.peer, *proxy}); users != proxies_.end()) {
      for (const std::string& id : users->second)
        if (id != spec.id && translations.at(id).spec.name != spec.name)
          return fmt::format("proxy address {} stands for {} already", proxy->to_string(),
                             translations.at(id).spec.name);
    }
  }
  const auto scope = scopes_.find({spec.peer, spec.resource, spec.name});
  if (scope != scopes_.end() && scope->second != spec.id)
    return fmt::format("name {} of resource {} has the translation {} already", spec.name, spec.resource,
                       scope->second);
  if (spec.addresses.size() > kMaxAddresses) return fmt::format("has more than {} addresses", kMaxAddresses);
  for (const IpAddress& address : spec.addresses)
    if (!can_be_destination(address))
      return fmt::format("address {} is not one that can be reached", address.to_string());
  if (spec.state == policy::TranslationState::active && spec.addresses.empty()) return "is active but has no address";
  return {};
}

}  // namespace penstock::runtime
