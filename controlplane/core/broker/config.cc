#include "controlplane/core/broker/config.h"

#include <algorithm>

#include "controlplane/core/convert.h"
#include "dataplane/core/policy/pattern.h"

namespace penstock::broker {
namespace {

bool overlap(const Prefix& a, const Prefix& b) {
  return a.contains(b.address()) || b.contains(a.address());
}

std::optional<std::string> check_resource(const BrokerConfig& config, const std::string& id,
                                          const v1::Resource& resource) {
  const std::string path = "resources." + id;
  if (!valid_id(id)) return path + ".id: must be 1 to 64 of A-Z a-z 0-9 . _ -";
  if (!config.sites.contains(resource.site())) return path + ".site: no site '" + resource.site() + "'";
  switch (resource.kind()) {
    case v1::RESOURCE_KIND_DNS:
      if (!policy::Pattern::parse(resource.pattern())) return path + ".pattern: not a name pattern";
      break;
    case v1::RESOURCE_KIND_ADDRESS:
    case v1::RESOURCE_KIND_CIDR:
      if (!from_proto(resource.prefix())) return path + ".prefix: not a prefix";
      break;
    case v1::RESOURCE_KIND_INTERNET:
      break;
    default:
      return path + ".kind: must be dns, address, cidr or internet";
  }
  return std::nullopt;
}

std::optional<std::string> check_pools(const Pools& pools) {
  if (!pools.tunnel_v4.address().is_v4()) return "pools.tunnel_v4: must be IPv4";
  if (!pools.proxy_v4.address().is_v4()) return "pools.proxy_v4: must be IPv4";
  if (!pools.tunnel_v6.address().is_v6()) return "pools.tunnel_v6: must be IPv6";
  if (!pools.proxy_v6.address().is_v6()) return "pools.proxy_v6: must be IPv6";
  if (overlap(pools.tunnel_v4, pools.proxy_v4)) return "pools.proxy_v4: overlaps pools.tunnel_v4";
  if (overlap(pools.tunnel_v6, pools.proxy_v6)) return "pools.proxy_v6: overlaps pools.tunnel_v6";
  if (pools.tunnel_v4.length() > 30) return "pools.tunnel_v4: too small";
  if (pools.tunnel_v6.length() > 126) return "pools.tunnel_v6: too small";
  return std::nullopt;
}

std::optional<std::string> check_clients(const BrokerConfig& config) {
  std::map<IpAddress, std::string> fixed;
  for (const auto& [id, client] : config.clients) {
    const std::string path = "clients." + id;
    if (!valid_id(id)) return path + ".id: must be 1 to 64 of A-Z a-z 0-9 . _ -";
    for (const IpAddress& address : {client.fixed.v4, client.fixed.v6}) {
      if (address.is_unspecified()) continue;
      if (!config.pools.tunnel_v4.contains(address) && !config.pools.tunnel_v6.contains(address))
        return path + ".tunnel_addresses: " + address.to_string() + " is not in the tunnel pools";
      const auto [holder, fresh] = fixed.emplace(address, id);
      if (!fresh) return path + ".tunnel_addresses: " + address.to_string() + " belongs to " + holder->second;
    }
  }
  return std::nullopt;
}

std::optional<std::string> check_tokens(const BrokerConfig& config) {
  std::map<Sha256, std::string> tokens;
  for (const auto& [id, gateway] : config.gateways)
    if (!tokens.emplace(gateway.token_sha256, id).second)
      return "gateways." + id + ".token_sha256: the same token as " + tokens[gateway.token_sha256];
  for (const auto& [id, client] : config.clients)
    if (!tokens.emplace(client.token_sha256, id).second)
      return "clients." + id + ".token_sha256: the same token as " + tokens[client.token_sha256];
  return std::nullopt;
}

}  // namespace

bool valid_id(const std::string& id) {
  if (id.empty() || id.size() > 64) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

std::optional<std::string> validate(const BrokerConfig& config) {
  if (auto error = check_pools(config.pools)) return error;
  for (const std::string& site : config.sites)
    if (!valid_id(site)) return "sites." + site + ".id: must be 1 to 64 of A-Z a-z 0-9 . _ -";
  for (const auto& [id, settings] : config.site_settings)
    if (settings.filtering() > v1::SiteSettings::FILTERING_ADDRESS_AND_PORT_DEPENDENT &&
        settings.mapping() != v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT)
      return "sites." + id + ".filtering: needs mapping: endpoint_independent";
  for (const auto& [id, gateway] : config.gateways) {
    if (!valid_id(id)) return "gateways." + id + ".id: must be 1 to 64 of A-Z a-z 0-9 . _ -";
    if (!config.sites.contains(gateway.site)) return "gateways." + id + ".site: no site '" + gateway.site + "'";
  }
  if (auto error = check_clients(config)) return error;
  if (auto error = check_tokens(config)) return error;
  for (const auto& [id, resource] : config.resources)
    if (auto error = check_resource(config, id, resource)) return error;
  for (std::size_t i = 0; i < config.policies.size(); ++i)
    if (!config.resources.contains(config.policies[i].resource))
      return "policies[" + std::to_string(i) + "].resource: no resource '" + config.policies[i].resource + "'";
  for (std::size_t i = 0; i < config.relays.size(); ++i) {
    const std::string path = "relays[" + std::to_string(i) + "]";
    if (!valid_id(config.relays[i].id)) return path + ".id: must be 1 to 64 of A-Z a-z 0-9 . _ -";
    if (config.relays[i].udp.empty()) return path + ".udp: needs at least one address:port";
  }
  return std::nullopt;
}

}  // namespace penstock::broker
