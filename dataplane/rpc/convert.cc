#include "dataplane/rpc/convert.h"

#include <fmt/format.h>

namespace penstock::rpc {
namespace {

using runtime::AuthorisationSpec;
using runtime::FilterSpec;
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

v1::IpPrefix message_of(const Prefix& prefix) {
  v1::IpPrefix message;
  const Bytes wire = prefix.address().wire();
  message.set_address(wire.data(), wire.size());
  message.set_length(prefix.length());
  return message;
}

bool ranges_from(const google::protobuf::RepeatedPtrField<v1::PortRange>& message,
                 std::vector<std::pair<std::uint16_t, std::uint16_t>>& out) {
  for (const auto& range : message) {
    if (range.first() > range.last() || range.last() > 65535) return false;
    out.emplace_back(static_cast<std::uint16_t>(range.first()), static_cast<std::uint16_t>(range.last()));
  }
  return true;
}

void put_ranges(const std::vector<std::pair<std::uint16_t, std::uint16_t>>& ranges,
                google::protobuf::RepeatedPtrField<v1::PortRange>& out) {
  for (const auto& [first, last] : ranges) {
    auto& range = *out.Add();
    range.set_first(first);
    range.set_last(last);
  }
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

std::string wire_of(const IpAddress& address) {
  if (address.is_unspecified()) return {};
  const Bytes wire = address.wire();
  return {wire.begin(), wire.end()};
}

std::string wire_of(const KeyBytes& key) {
  return {key.begin(), key.end()};
}

v1::Endpoint message_of(const Endpoint& endpoint) {
  v1::Endpoint message;
  if (endpoint.port == 0) return message;
  message.set_address(wire_of(endpoint.address));
  message.set_port(endpoint.port);
  return message;
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

v1::Peer message_of(const PeerSpec& spec) {
  v1::Peer message;
  message.set_public_key(wire_of(spec.public_key));
  message.mutable_tunnel()->set_v4(wire_of(spec.tunnel_v4));
  message.mutable_tunnel()->set_v6(wire_of(spec.tunnel_v6));
  for (const Prefix& source : spec.extra_sources) *message.add_extra_sources() = message_of(source);
  for (const Endpoint& endpoint : spec.endpoints) *message.add_endpoints() = message_of(endpoint);
  message.set_control(spec.control);
  message.set_persistent_keepalive_seconds(spec.persistent_keepalive_s);
  message.set_pinned_endpoint(spec.pinned_endpoint);
  return message;
}

v1::PeerAuthorisation message_of(const AuthorisationSpec& spec) {
  v1::PeerAuthorisation message;
  message.set_id(spec.id);
  message.set_peer(wire_of(spec.peer));
  v1::Resource& resource = *message.mutable_resource();
  resource.set_id(spec.resource);
  switch (spec.kind) {
    case policy::ResourceKind::dns:
      resource.set_kind(v1::RESOURCE_KIND_DNS);
      resource.set_pattern(spec.pattern);
      break;
    case policy::ResourceKind::address:
    case policy::ResourceKind::cidr:
      resource.set_kind(spec.kind == policy::ResourceKind::cidr ? v1::RESOURCE_KIND_CIDR : v1::RESOURCE_KIND_ADDRESS);
      *resource.mutable_prefix() = message_of(spec.prefix);
      break;
    case policy::ResourceKind::internet:
      resource.set_kind(v1::RESOURCE_KIND_INTERNET);
      break;
  }
  resource.mutable_filter()->set_icmp_echo(spec.filter.icmp_echo);
  put_ranges(spec.filter.tcp, *resource.mutable_filter()->mutable_tcp());
  put_ranges(spec.filter.udp, *resource.mutable_filter()->mutable_udp());
  if (spec.expires != WallTime{}) {
    message.mutable_expires()->set_seconds(static_cast<std::int64_t>(spec.expires.seconds));
    message.mutable_expires()->set_nanos(static_cast<std::int32_t>(spec.expires.nanoseconds));
  }
  return message;
}

v1::PeerTranslation message_of(const TranslationSpec& spec) {
  v1::PeerTranslation message;
  message.set_id(spec.id);
  message.set_peer(wire_of(spec.peer));
  message.set_resource(spec.resource);
  message.set_name(spec.name);
  message.set_proxy_v4(wire_of(spec.proxy_v4));
  message.set_proxy_v6(wire_of(spec.proxy_v6));
  constexpr v1::PeerTranslation::State kStates[] = {
      v1::PeerTranslation::STATE_RESOLVING, v1::PeerTranslation::STATE_ACTIVE, v1::PeerTranslation::STATE_NO_SUCH_NAME,
      v1::PeerTranslation::STATE_FORBIDDEN, v1::PeerTranslation::STATE_FAILED};
  message.set_state(kStates[static_cast<std::size_t>(spec.state)]);
  for (const IpAddress& address : spec.addresses) message.add_addresses(wire_of(address));
  return message;
}

v1::SiteSettings message_of(const runtime::SiteSpec& spec) {
  v1::SiteSettings message;
  if (spec.source_nat)
    message.set_source_nat(*spec.source_nat ? v1::SiteSettings::SOURCE_NAT_ON : v1::SiteSettings::SOURCE_NAT_OFF);
  if (spec.mapping)
    message.set_mapping(*spec.mapping == nat::Mapping::endpoint_independent
                            ? v1::SiteSettings::MAPPING_ENDPOINT_INDEPENDENT
                            : v1::SiteSettings::MAPPING_ADDRESS_AND_PORT_DEPENDENT);
  constexpr v1::SiteSettings::Filtering kFilterings[] = {v1::SiteSettings::FILTERING_ADDRESS_AND_PORT_DEPENDENT,
                                                         v1::SiteSettings::FILTERING_ADDRESS_DEPENDENT,
                                                         v1::SiteSettings::FILTERING_ENDPOINT_INDEPENDENT};
  if (spec.filtering) message.set_filtering(kFilterings[static_cast<std::size_t>(*spec.filtering)]);
  return message;
}

v1::DataPlaneInfo message_of(const runtime::EngineInfo& info, std::uint64_t generation) {
  v1::DataPlaneInfo message;
  message.set_public_key(wire_of(info.public_key));
  message.set_tunnel_port(info.listen_port);
  for (const IpAddress& address : info.tunnel_addresses) message.add_tunnel_addresses(wire_of(address));
  for (const IpAddress& address : info.source_addresses) message.add_source_nat_addresses(wire_of(address));
  for (const Prefix& prefix : info.own_prefixes) *message.add_own_prefixes() = message_of(prefix);
  message.set_generation(generation);
  message.set_instance(info.instance);
  *message.mutable_site_settings() =
      message_of(runtime::SiteSpec{!info.site.keep_source, info.site.mapping, info.site.filtering});
  return message;
}

v1::Event message_of(const runtime::EngineEvent& event) {
  using Kind = runtime::EngineEvent::Kind;
  v1::Event message;
  switch (event.kind) {
    case Kind::session_up:
      message.mutable_session_up()->set_peer(wire_of(event.peer));
      *message.mutable_session_up()->mutable_endpoint() = message_of(event.endpoint);
      break;
    case Kind::session_down:
      message.mutable_session_down()->set_peer(wire_of(event.peer));
      break;
    case Kind::endpoint_changed:
      message.mutable_endpoint_changed()->set_peer(wire_of(event.peer));
      *message.mutable_endpoint_changed()->mutable_endpoint() = message_of(event.endpoint);
      break;
    case Kind::mapped_address_changed:
      *message.mutable_mapped_address_changed()->mutable_server() = message_of(event.server);
      if (event.endpoint.port != 0)
        *message.mutable_mapped_address_changed()->mutable_mapped() = message_of(event.endpoint);
      break;
    case Kind::translation_wanted:
      message.mutable_translation_wanted()->set_peer(wire_of(event.peer));
      message.mutable_translation_wanted()->set_proxy_address(wire_of(event.address));
      break;
    case Kind::translation_use:
      for (const auto& id : event.translations) message.mutable_translation_use()->add_translations(id);
      break;
  }
  return message;
}

v1::PuntToControl message_of(const runtime::Punt& punt) {
  v1::PuntToControl message;
  if (punt.peer != KeyBytes{}) {
    message.mutable_tunnel_control()->set_peer(wire_of(punt.peer));
    *message.mutable_tunnel_control()->mutable_outer() = message_of(punt.remote);
    message.mutable_tunnel_control()->set_payload(punt.payload.data(), punt.payload.size());
  } else {
    *message.mutable_datagram()->mutable_remote() = message_of(punt.remote);
    message.mutable_datagram()->set_payload(punt.payload.data(), punt.payload.size());
  }
  return message;
}

}  // namespace penstock::rpc
