#include "controlplane/io/tunnel_routes.h"

#include <cstring>

namespace penstock::io {
namespace {

std::string failure(const std::string& what, int error) {
  return what + ": " + std::strerror(error);
}

}  // namespace

TunnelRoutes::TunnelRoutes(Netlink& netlink, TunnelRoutesConfig config) : netlink_(&netlink), config_(config) {}

TunnelRoutes::~TunnelRoutes() {
  remove();
}

std::vector<std::string> TunnelRoutes::install() {
  std::vector<std::string> failures;
  netlink_->clear_table(config_.table);
  installed_ = true;
  for (const bool v6 : {false, true}) {
    if (const int error = netlink_->add_rule({v6, config_.priority, config_.mark, config_.table}); error != 0)
      failures.push_back(failure(v6 ? "IPv6 routing rule" : "IPv4 routing rule", error));
  }
  return failures;
}

void TunnelRoutes::remove() {
  if (!installed_) return;
  installed_ = false;
  // The rules first: from here on no packet looks into the table.
  for (const bool v6 : {false, true}) netlink_->remove_rule({v6, config_.priority, config_.mark, config_.table});
  netlink_->clear_table(config_.table);
  prefixes_.clear();
  exceptions_.clear();
}

Route TunnelRoutes::route(const Prefix& to) const {
  Route out;
  out.to = to;
  out.table = config_.table;
  out.device = config_.device;
  out.source = to.address().is_v4() ? source_v4_ : source_v6_;
  return out;
}

Route TunnelRoutes::exception(const IpAddress& address) const {
  Route out;
  out.to = Prefix(address, 128);
  out.table = config_.table;
  out.kind = RouteKind::skip;
  return out;
}

std::vector<std::string> TunnelRoutes::set_sources(const IpAddress& source_v4, const IpAddress& source_v6) {
  if (source_v4 == source_v4_ && source_v6 == source_v6_) return {};
  const std::set<Prefix> prefixes = prefixes_;
  source_v4_ = source_v4;
  source_v6_ = source_v6;
  std::vector<std::string> failures;
  for (const Prefix& prefix : prefixes)
    if (const int error = netlink_->add_route(route(prefix)); error != 0) {
      failures.push_back(failure("route " + prefix.to_string(), error));
      prefixes_.erase(prefix);
    }
  return failures;
}

std::vector<std::string> TunnelRoutes::set_prefixes(const std::set<Prefix>& prefixes) {
  std::vector<std::string> failures;
  for (auto it = prefixes_.begin(); it != prefixes_.end();) {
    if (prefixes.contains(*it)) {
      ++it;
      continue;
    }
    // An exception for the same address stands in the same place of the table; it must not go with the route.
    if (const int error = netlink_->remove_route(route(*it)); error != 0)
      failures.push_back(failure("route " + it->to_string(), error));
    it = prefixes_.erase(it);
  }
  for (const Prefix& prefix : prefixes) {
    if (prefixes_.contains(prefix)) continue;
    if (prefix.length() == (prefix.address().is_v4() ? 32 : 128) && exceptions_.contains(prefix.address())) {
      failures.push_back("route " + prefix.to_string() + ": is the address of the portal, a relay or a gateway");
      continue;
    }
    if (const int error = netlink_->add_route(route(prefix)); error != 0) {
      failures.push_back(failure("route " + prefix.to_string(), error));
      continue;
    }
    prefixes_.insert(prefix);
  }
  return failures;
}

std::vector<std::string> TunnelRoutes::set_exceptions(const std::set<IpAddress>& exceptions) {
  std::vector<std::string> failures;
  for (auto it = exceptions_.begin(); it != exceptions_.end();) {
    if (exceptions.contains(*it)) {
      ++it;
      continue;
    }
    netlink_->remove_route(exception(*it));
    it = exceptions_.erase(it);
  }
  for (const IpAddress& address : exceptions) {
    if (exceptions_.contains(address)) continue;
    if (const int error = netlink_->add_route(exception(address)); error != 0) {
      failures.push_back(failure("exception " + address.to_string(), error));
      continue;
    }
    exceptions_.insert(address);
    prefixes_.erase(Prefix(address, 128));
  }
  return failures;
}

}  // namespace penstock::io
