// Values of the data plane, as messages.
#include "dataplane/rpc/convert.h"

namespace penstock::rpc {
namespace {

using runtime::AuthorisationSpec;
using runtime::KeyBytes;
using runtime::PeerSpec;
using runtime::TranslationSpec;

v1::IpPrefix message_of(const Prefix& prefix) {
  v1::IpPrefix message;
  const Bytes wire = prefix.address().wire();
  message.set_address(wire.data(), wire.size());
  message.set_length(prefix.length());
  return message;
}

void put_ranges(const std::vector<std::pair<std::uint16_t, std::uint16_t>>& ranges,
                google::protobuf::RepeatedPtrField<v1::PortRange>& out) {
  for (const auto& [first, last] : ranges) {
    auto& range = *out.Add();
    range.set_first(first);
    range.set_last(last);
  }
}

}  // namespace

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
