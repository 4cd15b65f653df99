// What the portal knows from its configuration: actors, resources, policies, relays. A plain value; a reload builds a
// new one. Ids are [A-Za-z0-9._-], 1 to 64 characters, unique per list (checked by whoever builds it: validate()).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "penstock/v1/common.pb.h"

namespace penstock::broker {

using Sha256 = std::array<std::uint8_t, 32>;

struct Pools {
  Prefix tunnel_v4 = *Prefix::parse("100.64.0.0/11");
  Prefix tunnel_v6 = *Prefix::parse("fd00:2021:1111::/107");
  Prefix proxy_v4 = *Prefix::parse("100.96.0.0/11");
  Prefix proxy_v6 = *Prefix::parse("fd00:2021:1111:8000::/107");
  IpAddress resolver_v4 = *IpAddress::parse("100.100.111.1");
  IpAddress resolver_v6 = *IpAddress::parse("fd00:2021:1111:8000:100:100:111:1");

  bool operator==(const Pools&) const = default;
};

// Addresses a client has inside the tunnel; an unspecified one is not assigned.
struct TunnelAddresses {
  IpAddress v4;
  IpAddress v6;
  bool operator==(const TunnelAddresses&) const = default;
};

struct RelayStreamServer {
  Endpoint endpoint;
  bool tls = false;
  std::string name;  // TLS: in the relay's certificate; empty: the address
  bool operator==(const RelayStreamServer&) const = default;
};

struct RelayConfig {
  std::string id;
  std::vector<Endpoint> udp;
  std::string realm;
  std::string shared_secret;  // coturn's static-auth-secret; never logged
  std::vector<RelayStreamServer> streams;  // TURN over TCP and TLS
  bool operator==(const RelayConfig&) const = default;
};

struct GatewayConfig {
  std::string site;
  Sha256 token_sha256{};
};

struct ClientConfig {
  Sha256 token_sha256{};
  std::set<std::string> groups;
  TunnelAddresses fixed;  // unspecified: the allocation decides
};

// Days and minutes in UTC; a window whose end is not after its start goes over midnight.
struct TimeWindow {
  std::uint8_t days = 0x7f;  // bit 0 is Sunday; the day on which the window starts
  std::uint16_t from_minute = 0;
  std::uint16_t to_minute = 24 * 60;
};

// All that are given must hold.
struct Conditions {
  std::vector<Prefix> client_ranges;  // address the portal sees the client come from; empty: any
  std::vector<TimeWindow> time_windows;
  std::optional<WallTime> expires;
};

struct Policy {
  std::string group;
  std::string resource;
  Conditions conditions;
};

struct BrokerConfig {
  Pools pools;
  std::vector<RelayConfig> relays;
  std::set<std::string> sites;
  std::map<std::string, v1::SiteSettings> site_settings;  // of those that say something
  std::map<std::string, GatewayConfig> gateways;
  std::map<std::string, ClientConfig> clients;
  std::map<std::string, v1::Resource> resources;
  std::vector<Policy> policies;
  std::vector<IpAddress> upstream_resolvers;
  std::chrono::seconds relay_credential_lifetime{12 * 3600};
};

[[nodiscard]] bool valid_id(const std::string& id);

// "path: reason" of the first thing that does not hold together (dangling references, duplicate tokens, pools that
// overlap, malformed patterns); nullopt when sound. Paths are those of docs/configuration.md.
[[nodiscard]] std::optional<std::string> validate(const BrokerConfig& config);

}  // namespace penstock::broker
