// What messages say, as values of the data plane.
#include "dataplane/rpc/convert.h"

#include <fmt/format.h>

namespace penstock::rpc {
namespace {

using runtime::AuthorisationSpec;
using runtime::KeyBytes;
using runtime::PeerSpec;
using runtime::TranslationSpec;

Bytes bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

ConvertError bad_key(const char* what, const std::string& wire) {
  return fmt::format("{} has {} bytes instead of 32", what, wire.size());
}

// Empty: none. nullopt: malformed.
std::optional<IpAddress> optional_address(const std::string& wire, bool v4) {
  if (wire.empty()) return IpAddress{};
  const auto address = address_from(wire);
  if (!address || address->is_v4() != v4) return std::nullopt;
  return address;
}

std::optional<Prefix> prefix_from(const v1::IpPrefix& message) {
  const auto address = address_from(message.address());
  if (!address || message.length() > (address->is_v4() ? 32U : 128U)) return std::nullopt;
  const Prefix prefix{*address, message.length()};
  if (prefix.address() != *address) return std::nullopt;
  return prefix;
}

bool ranges_from(const google::protobuf::RepeatedPtrField<v1::PortRange>& message,
                 std::vector<std::pair<std::uint16_t, std::uint16_t>>& out) {
  for (const auto& range : message) {
    if (range.first() > range.last() || range.last() > 65535) return false;
    out.emplace_back(static_cast<std::uint16_t>(range.first()), static_cast<std::uint16_t>(range.last()));
  }
  return true;
}

std::variant<runtime::Operation, ConvertError> peer_from(const v1::Peer& message) {
  PeerSpec spec;
  const auto key = key_from(message.public_key());
  if (!key) return bad_key("public key", message.public_key());
  spec.public_key = *key;
  if (!message.preshared_key().empty()) {
    const auto preshared = key_from(message.preshared_key());
    if (!preshared) return bad_key("preshared key", message.preshared_key());
    spec.preshared_key = *preshared;
  }
  const auto v4 = optional_address(message.tunnel().v4(), true);
  const auto v6 = optional_address(message.tunnel().v6(), false);
  if (!v4 || !v6) return ConvertError{"tunnel address is malformed"};
  spec.tunnel_v4 = *v4;
  spec.tunnel_v6 = *v6;
  for (const auto& source : message.extra_sources()) {
    const auto prefix = prefix_from(source);
    if (!prefix) return ConvertError{"extra source is not a prefix"};
    spec.extra_sources.push_back(*prefix);
  }
  for (const auto& endpoint : message.endpoints()) {
    const auto known = endpoint_from(endpoint);
    if (!known) return ConvertError{"endpoint is malformed"};
    spec.endpoints.push_back(*known);
  }
  if (message.persistent_keepalive_seconds() > 65535) return ConvertError{"persistent keepalive exceeds 65535 seconds"};
  spec.persistent_keepalive_s = static_cast<std::uint16_t>(message.persistent_keepalive_seconds());
  spec.control = message.control();
  spec.pinned_endpoint = message.pinned_endpoint();
  return runtime::Operation{std::move(spec)};
}

std::variant<runtime::Operation, ConvertError> authorisation_from(const v1::PeerAuthorisation& message) {
  AuthorisationSpec spec;
  spec.id = message.id();
  const auto peer = key_from(message.peer());
  if (!peer) return bad_key("peer", message.peer());
  spec.peer = *peer;
  const v1::Resource& resource = message.resource();
  spec.resource = resource.id();
  switch (resource.kind()) {
    case v1::RESOURCE_KIND_DNS:
      spec.kind = policy::ResourceKind::dns;
      spec.pattern = resource.pattern();
      break;
    case v1::RESOURCE_KIND_ADDRESS:
    case v1::RESOURCE_KIND_CIDR: {
      const auto prefix = prefix_from(resource.prefix());
      if (!prefix) return ConvertError{"resource's prefix is malformed or has host bits"};
      const bool cidr = resource.kind() == v1::RESOURCE_KIND_CIDR;
      spec.kind = cidr ? policy::ResourceKind::cidr : policy::ResourceKind::address;
      spec.prefix = *prefix;
      break;
    }
    case v1::RESOURCE_KIND_INTERNET:
      spec.kind = policy::ResourceKind::internet;
      break;
    default:
      return ConvertError{fmt::format("resource kind {} is unknown", static_cast<int>(resource.kind()))};
  }
  spec.filter.icmp_echo = resource.filter().icmp_echo();
  if (!ranges_from(resource.filter().tcp(), spec.filter.tcp) || !ranges_from(resource.filter().udp(), spec.filter.udp))
    return ConvertError{"port range ends before it starts, or beyond 65535"};
  if (message.has_expires()) {
    const auto& expires = message.expires();
    if (expires.seconds() <= 0 || expires.nanos() < 0 || expires.nanos() > 999'999'999)
      return ConvertError{"expiry is not a point in time"};
    spec.expires = {static_cast<std::uint64_t>(expires.seconds()), static_cast<std::uint32_t>(expires.nanos())};
  }
  return runtime::Operation{std::move(spec)};
}

std::variant<runtime::Operation, ConvertError> translation_from(const v1::PeerTranslation& message) {
  TranslationSpec spec;
  spec.id = message.id();
  const auto peer = key_from(message.peer());
  if (!peer) return bad_key("peer", message.peer());
  spec.peer = *peer;
  spec.resource = message.resource();
  spec.name = message.name();
  const auto v4 = optional_address(message.proxy_v4(), true);
  const auto v6 = optional_address(message.proxy_v6(), false);
  if (!v4 || !v6) return ConvertError{"proxy address is malformed"};
  spec.proxy_v4 = *v4;
  spec.proxy_v6 = *v6;
  switch (message.state()) {
    case v1::PeerTranslation::STATE_RESOLVING:
      spec.state = policy::TranslationState::resolving;
      break;
    case v1::PeerTranslation::STATE_ACTIVE:
      spec.state = policy::TranslationState::active;
      break;
    case v1::PeerTranslation::STATE_NO_SUCH_NAME:
      spec.state = policy::TranslationState::no_such_name;
      break;
    case v1::PeerTranslation::STATE_FORBIDDEN:
      spec.state = policy::TranslationState::forbidden;
      break;
    case v1::PeerTranslation::STATE_FAILED:
      spec.state = policy::TranslationState::failed;
      break;
    default:
      return ConvertError{fmt::format("translation state {} is unknown", static_cast<int>(message.state()))};
  }
  for (const auto& wire : message.addresses()) {
    const auto address = address_from(wire);
    if (!address) return ConvertError{"real address is malformed"};
    spec.addresses.push_back(*address);
  }
  return runtime::Operation{std::move(spec)};
}

// Values of a newer protocol say nothing to us.
runtime::SiteSpec site_from(const v1::SiteSettings& message) {
  runtime::SiteSpec spec;
  if (message.source_nat() == v1::SiteSettings::SOURCE_NAT_ON) spec.source_nat = true;
  if (message.source_nat() == v1::SiteSettings::SOURCE_NAT_OFF) spec.source_nat = false;
  if (message.mapping() == v1::SiteSettings::MAPPING_ADDRESS_AND_PORT_DEPENDENT)
    spec.mapping = nat::Mapping::address_and_port_dependent;
  if (message.mapping() == v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT)
    spec.mapping = nat::Mapping::endpoint_independent;
  if (message.filtering() == v1::SiteSettings::FILTERING_ADDRESS_AND_PORT_DEPENDENT)
    spec.filtering = nat::Filtering::address_and_port_dependent;
  if (message.filtering() == v1::SiteSettings::FILTERING_ADDRESS_DEPENDENT)
    spec.filtering = nat::Filtering::address_dependent;
  if (message.filtering() == v1::SiteSettings::FILTERING_ENDPOINT_INDEPENDENT)
    spec.filtering = nat::Filtering::endpoint_independent;
  return spec;
}

}  // namespace

std::optional<IpAddress> address_from(const std::string& wire) {
  if (wire.size() != 4 && wire.size() != 16) return std::nullopt;
  const IpAddress address = IpAddress::from_wire(bytes_of(wire));
  if (wire.size() == 16 && address.is_v4()) return std::nullopt;  // a mapped address is not one of IPv6
  return address;
}

std::vector<Endpoint> remotes_from(const v1::Datagram& message) {
  std::vector<Endpoint> out;
  if (const auto first = endpoint_from(message.remote())) out.push_back(*first);
  for (const v1::Endpoint& other : message.also_to())
    if (const auto remote = endpoint_from(other)) out.push_back(*remote);
  return out;
}

std::optional<Endpoint> endpoint_from(const v1::Endpoint& message) {
  const auto address = address_from(message.address());
  if (!address || message.port() == 0 || message.port() > 65535) return std::nullopt;
  return Endpoint{*address, static_cast<std::uint16_t>(message.port())};
}

std::optional<KeyBytes> key_from(const std::string& wire) {
  KeyBytes key{};
  if (wire.size() != key.size()) return std::nullopt;
  std::copy(wire.begin(), wire.end(), reinterpret_cast<char*>(key.data()));
  return key;
}

std::variant<runtime::Operation, ConvertError> operation_from(const v1::Operation& message) {
  switch (message.kind_case()) {
    case v1::Operation::kUpsertPeer:
      return peer_from(message.upsert_peer());
    case v1::Operation::kRemovePeer: {
      const auto key = key_from(message.remove_peer());
      if (!key) return bad_key("public key", message.remove_peer());
      return runtime::Operation{runtime::RemovePeer{*key}};
    }
    case v1::Operation::kUpsertAuthorisation:
      return authorisation_from(message.upsert_authorisation());
    case v1::Operation::kRemoveAuthorisation:
      return runtime::Operation{runtime::RemoveAuthorisation{message.remove_authorisation()}};
    case v1::Operation::kUpsertTranslation:
      return translation_from(message.upsert_translation());
    case v1::Operation::kRemoveTranslation:
      return runtime::Operation{runtime::RemoveTranslation{message.remove_translation()}};
    case v1::Operation::kSiteSettings:
      return runtime::Operation{site_from(message.site_settings())};
    default:
      return ConvertError{"operation is unknown to this data plane"};
  }
}

std::variant<std::vector<Endpoint>, ConvertError> stun_servers_from(const v1::StunServers& message) {
  constexpr int kMaxServers = 16;
  if (message.servers_size() > kMaxServers) return ConvertError{fmt::format("more than {} STUN servers", kMaxServers)};
  std::vector<Endpoint> servers;
  for (const auto& server : message.servers()) {
    const auto endpoint = endpoint_from(server);
    if (!endpoint) return ConvertError{"STUN server is malformed"};
    servers.push_back(*endpoint);
  }
  return servers;
}

}  // namespace penstock::rpc
