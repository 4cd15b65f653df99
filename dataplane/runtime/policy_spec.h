// Peers, authorisations, translations and the site's settings as the control side states them: plain values, compared
// by ==. From the YAML file (`static:`) and from gRPC alike; PolicyStore checks and applies them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/nat/site_settings.h"
#include "dataplane/core/policy/snapshot.h"

namespace penstock::runtime {

using KeyBytes = std::array<std::uint8_t, 32>;

// Identity is `public_key`.
struct PeerSpec {
  KeyBytes public_key{};
  KeyBytes preshared_key{};  // all zero: none
  IpAddress tunnel_v4;       // unspecified: none of that family; at least one
  IpAddress tunnel_v6;
  std::vector<Prefix> extra_sources;
  bool control = false;             // speaks in-tunnel control; endpoint follows path switches
  std::vector<Endpoint> endpoints;  // known addresses, best first
  std::uint16_t persistent_keepalive_s = 0;
  bool pinned_endpoint = false;

  bool operator==(const PeerSpec&) const = default;
};

struct FilterSpec {
  bool icmp_echo = false;
  std::vector<std::pair<std::uint16_t, std::uint16_t>> tcp;  // first, last
  std::vector<std::pair<std::uint16_t, std::uint16_t>> udp;

  // Nothing set: every protocol.
  [[nodiscard]] policy::Filter to_filter() const;
  bool operator==(const FilterSpec&) const = default;
};

// Identity is `id`.
struct AuthorisationSpec {
  std::string id;
  KeyBytes peer{};
  std::string resource;
  policy::ResourceKind kind = policy::ResourceKind::dns;
  std::string pattern;  // dns
  Prefix prefix;        // address, cidr
  FilterSpec filter;
  WallTime expires{};  // {0,0}: never

  bool operator==(const AuthorisationSpec&) const = default;
};

// Identity is `id`.
struct TranslationSpec {
  std::string id;
  KeyBytes peer{};
  std::string resource;
  std::string name;
  IpAddress proxy_v4;  // unspecified: none of that family
  IpAddress proxy_v6;
  policy::TranslationState state = policy::TranslationState::resolving;
  std::vector<IpAddress> addresses;  // real ones, both families, in order of preference

  bool operator==(const TranslationSpec&) const = default;
};

// What a site says about translation; nullopt: nothing. There is one of it.
struct SiteSpec {
  std::optional<bool> source_nat;  // off: clients appear on the LAN as they are
  std::optional<nat::Mapping> mapping;
  std::optional<nat::Filtering> filtering;

  bool operator==(const SiteSpec&) const = default;
};

// What `own` (the data plane's file) says goes before what the site says, and that before the defaults. A filter that
// needs an endpoint-independent mapping and has none becomes the strict one.
[[nodiscard]] nat::SiteSettings effective_settings(const SiteSpec& own, const SiteSpec& site);

struct RemovePeer {
  KeyBytes public_key{};
};
struct RemoveAuthorisation {
  std::string id;
};
struct RemoveTranslation {
  std::string id;
};

using Operation =
    std::variant<PeerSpec, RemovePeer, AuthorisationSpec, RemoveAuthorisation, TranslationSpec, RemoveTranslation, SiteSpec>;

// Where addresses may come from; defaults of the protocol.
struct PoolsSpec {
  Prefix tunnel_v4 = *Prefix::parse("100.64.0.0/11");
  Prefix tunnel_v6 = *Prefix::parse("fd00:2021:1111::/107");
  Prefix proxy_v4 = *Prefix::parse("100.96.0.0/11");
  Prefix proxy_v6 = *Prefix::parse("fd00:2021:1111:8000::/107");
};

}  // namespace penstock::runtime
