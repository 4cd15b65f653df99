// The Resources of this client and which of them a packet is for.
//
// Choice (protocol.md, "Resources and policy"): of the Resources that match the destination, those whose filter allows
// the packet; then the most specific; then the lowest id. A filter that forbids is answered here, so such packets never
// cause a request to the portal. Look-up costs the number of distinct prefix lengths, not of Resources. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/core/client_agent/inner_packet.h"
#include "dataplane/core/base/address.h"
#include "dataplane/core/policy/snapshot.h"
#include "penstock/v1/common.pb.h"

namespace penstock::client {

enum class IpStack : std::uint8_t { dual, ipv4, ipv6 };

struct Resource {
  std::string id;
  policy::ResourceKind kind = policy::ResourceKind::dns;
  std::string pattern;  // dns
  Prefix prefix;        // address, cidr; internet: unused
  policy::Filter filter;
  IpStack ip_stack = IpStack::dual;
  std::string site;
};

// nullopt and `error` set when the message cannot be a Resource (unknown kind, malformed prefix, no id). A filter entry
// that is malformed makes the whole Resource unusable: leaving it out could allow more than was meant.
[[nodiscard]] std::optional<Resource> resource_from_proto(const v1::Resource& message, std::string& error);

// ICMP errors and later fragments are allowed by every filter: they belong to something that was judged.
[[nodiscard]] bool filter_allows(const policy::Filter& filter, const InnerPacket& packet);

class ResourceSet {
 public:
  enum class Change : std::uint8_t { none, cosmetic, rights };

  // `rights`: new, or what an authorisation rests on (kind, pattern, prefix, site) changed, so that it must be asked
  // for anew. `cosmetic`: filter or stack changed.
  Change upsert(Resource resource);
  bool remove(const std::string& id);
  void clear();

  [[nodiscard]] const Resource* find(const std::string& id) const;
  [[nodiscard]] const std::map<std::string, Resource>& all() const { return resources_; }
  // Grows with every change: whoever caches a choice compares it.
  [[nodiscard]] std::uint64_t revision() const { return revision_; }

  struct Choice {
    const Resource* resource = nullptr;  // the Resource to use; valid until the next change
    bool matched = false;                // some Resource has this destination, though its filter may forbid
  };
  [[nodiscard]] Choice choose_by_address(const InnerPacket& packet) const;
  // Whether `allowed(resource)` holds for any Resource that contains the address.
  template <typename Predicate>
  [[nodiscard]] bool any_with(const IpAddress& address, Predicate allowed) const {
    for (const auto& [length, level] : levels_[address.is_v4() ? 0 : 1]) {
      const auto entry = level.find(Prefix{address, length}.address());
      if (entry == level.end()) continue;
      for (const std::string& id : entry->second)
        if (allowed(resources_.at(id))) return true;
    }
    return false;
  }
  // `ids`: Resources whose pattern matches the name, most specific first.
  [[nodiscard]] Choice choose_by_name(const std::vector<std::string>& ids, const InnerPacket& packet) const;

  // Prefixes that must be routed into the tunnel for address, CIDR and internet Resources.
  [[nodiscard]] std::vector<Prefix> routes() const;

 private:
  struct PrefixHash {
    std::size_t operator()(const IpAddress& address) const { return hash_value(address); }
  };
  // Per family and length: network address -> Resources in order of id.
  using Level = std::unordered_map<IpAddress, std::set<std::string>, PrefixHash>;
  using Levels = std::map<unsigned, Level, std::greater<>>;  // longest first

  void index(const Resource& resource, bool add);

  std::map<std::string, Resource> resources_;
  Levels levels_[2];  // IPv4, IPv6
  std::uint64_t revision_ = 1;
};

}  // namespace penstock::client
