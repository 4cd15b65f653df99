#include "controlplane/core/client_agent/resource_set.h"

#include <algorithm>
#include <utility>

#include "controlplane/core/convert.h"
#include "dataplane/core/packet/headers.h"

namespace penstock::client {
namespace {

using PortRanges = google::protobuf::RepeatedPtrField<v1::PortRange>;

bool read_ports(const PortRanges& from, std::vector<policy::PortRange>& to) {
  for (const auto& range : from) {
    if (range.first() > range.last() || range.last() > 65535) return false;
    to.push_back({static_cast<std::uint16_t>(range.first()), static_cast<std::uint16_t>(range.last())});
  }
  return true;
}

bool in_ranges(const std::vector<policy::PortRange>& ranges, std::uint16_t port) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [port](const policy::PortRange& range) { return range.first <= port && port <= range.last; });
}

bool same_ports(const std::vector<policy::PortRange>& a, const std::vector<policy::PortRange>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first && x.last == y.last; });
}

bool same_filter(const policy::Filter& a, const policy::Filter& b) {
  return a.all == b.all && a.icmp_echo == b.icmp_echo && same_ports(a.tcp, b.tcp) && same_ports(a.udp, b.udp);
}

const Prefix kEverything4{IpAddress::v4(0U), 0};
const Prefix kEverything6{IpAddress{}, 0};

}  // namespace

std::optional<Resource> resource_from_proto(const v1::Resource& message, std::string& error) {
  Resource out;
  out.id = message.id();
  out.site = message.site();
  if (out.id.empty()) {
    error = "a resource without an id";
    return std::nullopt;
  }
  switch (message.kind()) {
    case v1::RESOURCE_KIND_DNS:
      out.kind = policy::ResourceKind::dns;
      out.pattern = message.pattern();
      break;
    case v1::RESOURCE_KIND_ADDRESS:
    case v1::RESOURCE_KIND_CIDR: {
      out.kind = message.kind() == v1::RESOURCE_KIND_CIDR ? policy::ResourceKind::cidr : policy::ResourceKind::address;
      const auto prefix = from_proto(message.prefix());
      const unsigned host = prefix && prefix->address().is_v4() ? 32 : 128;
      if (!prefix || (out.kind == policy::ResourceKind::address && prefix->length() != host)) {
        error = "resource " + out.id + ": malformed prefix";
        return std::nullopt;
      }
      out.prefix = *prefix;
      break;
    }
    case v1::RESOURCE_KIND_INTERNET:
      out.kind = policy::ResourceKind::internet;
      break;
    default:
      error = "resource " + out.id + ": kind not known to this version";
      return std::nullopt;
  }
  out.ip_stack = message.ip_stack() == v1::IP_STACK_IPV4   ? IpStack::ipv4
                 : message.ip_stack() == v1::IP_STACK_IPV6 ? IpStack::ipv6
                                                           : IpStack::dual;
  const v1::Filter& filter = message.filter();
  out.filter.icmp_echo = filter.icmp_echo();
  if (!read_ports(filter.tcp(), out.filter.tcp) || !read_ports(filter.udp(), out.filter.udp)) {
    error = "resource " + out.id + ": malformed port range";
    return std::nullopt;
  }
  out.filter.all = !filter.icmp_echo() && filter.tcp().empty() && filter.udp().empty();
  return out;
}

bool filter_allows(const policy::Filter& filter, const InnerPacket& packet) {
  if (filter.all || packet.icmp_error || packet.later_fragment) return true;
  switch (packet.protocol) {
    case ip_protocol::tcp:
      return in_ranges(filter.tcp, packet.destination_port);
    case ip_protocol::udp:
      return in_ranges(filter.udp, packet.destination_port);
    case ip_protocol::icmp:
    case ip_protocol::icmpv6:
      return packet.icmp_echo && filter.icmp_echo;
    default:
      return false;
  }
}

ResourceSet::Change ResourceSet::upsert(Resource resource) {
  const auto found = resources_.find(resource.id);
  Change change = Change::rights;
  if (found != resources_.end()) {
    const Resource& old = found->second;
    const bool same_rights = old.kind == resource.kind && old.pattern == resource.pattern &&
                             old.prefix == resource.prefix && old.site == resource.site;
    const bool same_rest = old.ip_stack == resource.ip_stack && same_filter(old.filter, resource.filter);
    if (same_rights && same_rest) return Change::none;
    if (same_rights) change = Change::cosmetic;
    index(old, false);
  }
  ++revision_;
  const Resource& stored = resources_.insert_or_assign(resource.id, resource).first->second;
  index(stored, true);
  return change;
}

bool ResourceSet::remove(const std::string& id) {
  const auto found = resources_.find(id);
  if (found == resources_.end()) return false;
  ++revision_;
  index(found->second, false);
  resources_.erase(found);
  return true;
}

void ResourceSet::clear() {
  ++revision_;
  resources_.clear();
  for (Levels& levels : levels_) levels.clear();
}

const Resource* ResourceSet::find(const std::string& id) const {
  const auto found = resources_.find(id);
  return found == resources_.end() ? nullptr : &found->second;
}

void ResourceSet::index(const Resource& resource, bool add) {
  const auto one = [&](const Prefix& prefix) {
    Levels& levels = levels_[prefix.address().is_v4() ? 0 : 1];
    if (add) {
      levels[prefix.length()][prefix.address()].insert(resource.id);
      return;
    }
    const auto level = levels.find(prefix.length());
    if (level == levels.end()) return;
    const auto entry = level->second.find(prefix.address());
    if (entry == level->second.end()) return;
    entry->second.erase(resource.id);
    if (entry->second.empty()) level->second.erase(entry);
    if (level->second.empty()) levels.erase(level);
  };
  switch (resource.kind) {
    case policy::ResourceKind::dns:
      return;
    case policy::ResourceKind::internet:
      one(kEverything4);
      one(kEverything6);
      return;
    case policy::ResourceKind::address:
    case policy::ResourceKind::cidr:
      one(resource.prefix);
  }
}

ResourceSet::Choice ResourceSet::choose_by_address(const InnerPacket& packet) const {
  Choice choice;
  for (const auto& [length, level] : levels_[packet.destination.is_v4() ? 0 : 1]) {
    const auto entry = level.find(Prefix{packet.destination, length}.address());
    if (entry == level.end()) continue;
    for (const std::string& id : entry->second) {
      const Resource& resource = resources_.at(id);
      choice.matched = true;
      if (!filter_allows(resource.filter, packet)) continue;
      choice.resource = &resource;
      return choice;
    }
  }
  return choice;
}

ResourceSet::Choice ResourceSet::choose_by_name(const std::vector<std::string>& ids, const InnerPacket& packet) const {
  Choice choice;
  for (const std::string& id : ids) {
    const Resource* resource = find(id);
    if (resource == nullptr) continue;
    choice.matched = true;
    if (!filter_allows(resource->filter, packet)) continue;
    choice.resource = resource;
    return choice;
  }
  return choice;
}

std::vector<Prefix> ResourceSet::routes() const {
  std::vector<Prefix> out;
  for (const Levels& levels : levels_)
    for (const auto& [length, level] : levels)
      for (const auto& [address, ids] : level) out.emplace_back(address, length);
  return out;
}

}  // namespace penstock::client
