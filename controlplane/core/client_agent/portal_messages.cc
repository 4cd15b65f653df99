// What the portal says: the snapshot of Resources, grants and refusals - and what is asked of it.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"
#include "controlplane/core/client_agent/candidates.h"
#include "controlplane/core/convert.h"

namespace penstock::client {
namespace {

std::optional<Refusal> read_refusal(v1::RefusalReason reason) {
  switch (reason) {
    case v1::REFUSAL_REASON_NOT_FOUND:
      return Refusal::not_found;
    case v1::REFUSAL_REASON_VERSION_MISMATCH:
      return Refusal::version_mismatch;
    case v1::REFUSAL_REASON_FORBIDDEN:
      return Refusal::forbidden;
    case v1::REFUSAL_REASON_RATE_LIMITED:
      return Refusal::rate_limited;
    default:
      return Refusal::offline;  // a reason of a later version: try again later
  }
}

}  // namespace

void ClientAgent::handle_portal_connected(Now now) {
  Impl& d = *impl_;
  d.portal_up = true;
  d.portal_ready = false;
  d.welcome_due = now.monotonic + d.welcome_patience.next(d.random);
  d.to_portal.clear();
  for (const auto& [id, state] : d.states) state->access.portal_renewed();
  d.send_hello();
  d.settle(now);
}

void ClientAgent::handle_portal_disconnected(Now now) {
  Impl& d = *impl_;
  if (d.portal_up) d.portal_down_since = now.monotonic;
  d.portal_up = d.portal_ready = false;
  d.welcome_due = kNever;
  d.to_portal.clear();
  for (const auto& [id, state] : d.states) state->access.portal_lost(now);
  d.settle(now);
}

void ClientAgent::handle_portal_message(const v1::PortalToClient& message, Now now) {
  Impl& d = *impl_;
  switch (message.message_case()) {
    case v1::PortalToClient::kWelcome:
      d.handle_welcome(message.welcome(), now);
      break;
    case v1::PortalToClient::kConnectionGranted:
      d.handle_granted(message.connection_granted(), now);
      break;
    case v1::PortalToClient::kConnectionRefused:
      d.handle_refused(message.connection_refused(), now);
      break;
    case v1::PortalToClient::kResourceChange:
      d.handle_resource_change(message.resource_change(), now);
      break;
    case v1::PortalToClient::kRelaysChange:
      d.handle_relays(message.relays_change().relays(), now);
      break;
    case v1::PortalToClient::kCandidateUpdate:
      d.handle_candidates(message.candidate_update(), now);
      break;
    case v1::PortalToClient::kAuthorisationRevoked:
      d.handle_revoked(message.authorisation_revoked(), now);
      break;
    case v1::PortalToClient::MESSAGE_NOT_SET:
      break;  // of a later version
  }
  d.settle(now);
}

void ClientAgent::Impl::send_hello() {
  v1::ClientToPortal message;
  v1::Hello& hello = *message.mutable_hello();
  *hello.mutable_protocol_version() = to_proto(config.protocol);
  hello.set_software_version(PENSTOCK_VERSION);
  const Bytes key = device.public_key().view();
  hello.set_public_key(std::string(key.begin(), key.end()));
  hello.set_hostname(config.hostname);
  to_portal.push_back(std::move(message));
}

void ClientAgent::Impl::handle_welcome(const v1::ClientWelcome& message, Now now) {
  client_id = message.client_id();
  const auto read = [&](const std::string& bytes, bool v6, const char* what) {
    const auto address = address_from_wire(bytes);
    if (address && address->is_v6() == v6 && !address->is_unspecified()) return *address;
    if (!bytes.empty()) log_warning(std::string("the portal sent a malformed ") + what);
    return IpAddress{};
  };
  interface.tunnel_v4 = read(message.tunnel().v4(), false, "IPv4 tunnel address");
  interface.tunnel_v6 = read(message.tunnel().v6(), true, "IPv6 tunnel address");
  if (message.has_pools()) set_pools(message.pools(), now);

  portal_upstreams.clear();
  for (const std::string& bytes : message.upstream_resolvers())
    if (const auto address = address_from_wire(bytes)) portal_upstreams.push_back(*address);
  event(AgentEvent::upstreams_changed);

  std::set<std::string> named;
  for (const v1::Resource& resource : message.resources()) named.insert(resource.id());
  std::vector<std::string> gone;
  for (const auto& [id, resource] : resources.all())
    if (!named.contains(id)) gone.push_back(id);
  for (const std::string& id : gone) {
    resources.remove(id);
    forget_state(id, DropReason::policy_no_resource, now);
  }
  for (const v1::Resource& resource : message.resources()) upsert_resource(resource, now);
  handle_relays(message.relays(), now);
  resources_changed(now);

  portal_ready = ever_welcomed = true;
  welcome_due = kNever;
  welcome_patience.reset();
  for (const auto& [id, state] : states) state->access.forget_refusal();
  send_candidates(now);
  serve_all(now);
}

void ClientAgent::Impl::set_pools(const v1::AddressPools& pools, Now now) {
  dns::NameMapConfig wanted = config.names;
  const auto v4 = from_proto(pools.proxy_v4());
  const auto v6 = from_proto(pools.proxy_v6());
  if (v4 && v4->address().is_v4()) wanted.pool_v4 = *v4;
  if (v6 && v6->address().is_v6()) wanted.pool_v6 = *v6;
  const auto resolver_v4 = address_from_wire(pools.resolver_v4());
  const auto resolver_v6 = address_from_wire(pools.resolver_v6());
  const IpAddress sentinel4 = resolver_v4 && resolver_v4->is_v4() ? *resolver_v4 : interface.resolver_v4;
  const IpAddress sentinel6 = resolver_v6 && resolver_v6->is_v6() ? *resolver_v6 : interface.resolver_v6;
  if (wanted.pool_v4 == config.names.pool_v4 && wanted.pool_v6 == config.names.pool_v6 &&
      sentinel4 == interface.resolver_v4 && sentinel6 == interface.resolver_v6)
    return;
  log_info("address pools changed: names get new proxy addresses");
  config.names = wanted;
  interface.resolver_v4 = sentinel4;
  interface.resolver_v6 = sentinel6;
  config.names.excluded.push_back(Prefix(sentinel4, 24));
  config.names.excluded.push_back(Prefix(sentinel6, 112));
  config.resolver.sentinels = {sentinel4, sentinel6};
  for (const auto& [id, state] : states) {
    reject_waiting(*state, Undeliverable::unreachable, DropReason::name_unknown, now);
    fail_queries(*state, now);
    state->targets.clear();
  }
  resolver.reset();
  names = std::make_unique<dns::NameMap>(config.names, random);
  resolver = std::make_unique<dns::StubResolver>(config.resolver, *names, random);
  changed();
  event(AgentEvent::resolver_rebuilt);
  event(AgentEvent::interface_changed);
}

void ClientAgent::Impl::upsert_resource(const v1::Resource& message, Now now) {
  std::string error;
  auto resource = resource_from_proto(message, error);
  if (!resource) {
    log_warning(error);
    // Whatever stood under that id is no longer what the portal says.
    if (resources.remove(message.id())) forget_state(message.id(), DropReason::policy_no_resource, now);
    return;
  }
  const auto state = states.find(resource->id);
  const auto change = resources.upsert(std::move(*resource));
  if (state == states.end()) return;
  // Also when nothing is new about it: the portal says it again when a gateway of its site is back.
  state->second->access.forget_refusal();
  if (change == ResourceSet::Change::none) return;
  // The authorisation was given for another pattern, prefix or site: what waits asks again.
  if (change == ResourceSet::Change::rights) revoke(*state->second, now);
}

void ClientAgent::Impl::handle_resource_change(const v1::ResourceChange& message, Now now) {
  for (const std::string& id : message.removed()) {
    resources.remove(id);
    forget_state(id, DropReason::policy_no_resource, now);
  }
  for (const v1::Resource& resource : message.upserted()) upsert_resource(resource, now);
  resources_changed(now);
  serve_all(now);
}

// Everything that is derived from the set of Resources.
void ClientAgent::Impl::resources_changed(Now now) {
  changed();
  std::vector<dns::DnsResource> patterns;
  for (const auto& [id, resource] : resources.all()) {
    if (resource.kind != policy::ResourceKind::dns) continue;
    patterns.push_back({id, resource.pattern, static_cast<dns::IpStack>(resource.ip_stack)});
  }
  for (const std::string& line : resolver->set_resources(std::move(patterns), now)) log_warning(line);
  interface_changed();
}

void ClientAgent::Impl::interface_changed() {
  interface.routes = resources.routes();
  interface.routes.push_back(config.names.pool_v4);
  interface.routes.push_back(config.names.pool_v6);
  interface.exceptions = relay_addresses;
  for (const auto& [id, link] : links)
    for (const Endpoint& endpoint : link->config.endpoints) interface.exceptions.push_back(endpoint.address);
  event(AgentEvent::interface_changed);
}

void ClientAgent::Impl::handle_relays(const google::protobuf::RepeatedPtrField<v1::Relay>& relays, Now now) {
  std::vector<paths::RelayConfig> list;
  relay_addresses.clear();
  for (const v1::Relay& relay : relays) {
    paths::RelayConfig config_of;
    config_of.id = relay.id();
    config_of.username = relay.username();
    config_of.password = relay.password();
    config_of.realm = relay.realm();
    for (const v1::Endpoint& message : relay.udp()) {
      const auto endpoint = from_proto(message);
      if (!endpoint) continue;
      config_of.udp.push_back(*endpoint);
      relay_addresses.push_back(endpoint->address);
    }
    for (const v1::StreamServer& message : relay.streams()) {
      const auto endpoint = from_proto(message.endpoint());
      if (!endpoint) continue;
      config_of.streams.push_back({*endpoint, message.tls(), message.name()});
      relay_addresses.push_back(endpoint->address);
    }
    list.push_back(std::move(config_of));
  }
  connectivity.handle_relays(list, now);
  interface_changed();
}

void ClientAgent::Impl::handle_candidates(const v1::CandidateUpdate& message, Now now) {
  const auto link = links.find(message.gateway());
  if (link != links.end())
    return connectivity.handle_remote_candidates(link->second->peer, read_candidates(message.candidates()), now);
  // One that the portal is asking for us just now. In 1.0 a tunnel knows of no relays' ways but the granted ones.
  const bool asked = std::any_of(states.begin(), states.end(), [](const auto& s) { return s.second->access.asked(); });
  if (asked && !eager()) connectivity.expect_gateway(read_candidates(message.candidates()), now);
}

void ClientAgent::Impl::handle_revoked(const v1::AuthorisationRevoked& message, Now now) {
  const auto state = states.find(message.resource());
  if (state == states.end()) return;
  // One that was meant for a gateway we have left in the meantime changes nothing.
  if (!message.gateway().empty() && state->second->access.gateway() != message.gateway()) return;
  log_info("authorisation for " + message.resource() + " was revoked");
  revoke(*state->second, now);
  serve(*state->second, now);
}

void ClientAgent::Impl::handle_granted(const v1::ConnectionGranted& message, Now now) {
  const Resource* resource = resources.find(message.resource());
  const auto found = states.find(message.resource());
  if (resource == nullptr || found == states.end()) return;  // gone while the portal decided
  ResourceState& state = *found->second;
  Link* link = link_for_grant(message, now);
  if (link == nullptr) {
    log_warning("the portal's grant for " + message.resource() + " is malformed");
    state.access.refused(message.request_id(), Refusal::offline, now);
    return serve(state, now);
  }
  const bool fresh = !link->ready();
  attach(state, *link, now);
  state.access.granted(link->gateway, message.has_expires() ? from_proto(message.expires()) : WallTime{}, now);
  for (const auto& [name, target] : state.targets) {
    if (target->name.empty()) continue;
    // Names that travelled with the request are known to the gateway. Others it may have forgotten, unless the tunnel
    // stands and they were told through it.
    // In 1.0 they are asked for in the tunnel all the same: the answer says which families there are.
    if (!eager() && !message.request_id().empty() && target->requested_in == message.request_id()) {
      target->announced = link;
      target->status = Target::Name::active;
      target->status_until = kNever;
    } else if (fresh || target->announced != link) {
      target->announced = nullptr;
    }
  }
  const auto candidates = connectivity.local_candidates();
  if (link->managed && candidates != state.told) {
    // What was found while the portal decided had no gateway yet to be told to.
    send_candidates(*link, candidates, now);
    state.told = candidates;
  } else if (link->managed && !link->session && portal_ready && has_relayed(candidates) &&
             !connectivity.heard_over_relay(link->peer)) {
    // Our relay heard too late which gateway it is to let in: what that one punched when it was asked was lost there.
    tell_portal(*link, candidates);
  }
  changed();
  serve(state, now);
}

void ClientAgent::Impl::handle_refused(const v1::ConnectionRefused& message, Now now) {
  const auto found = states.find(message.resource());
  if (found == states.end()) return;
  ResourceState& state = *found->second;
  const auto reason = *read_refusal(message.reason());
  if (!state.access.refused(message.request_id(), reason, now)) return;
  state.refusal = message.detail();
  if (reason == Refusal::version_mismatch)
    log_warning("no gateway for " + message.resource() + " can be used: " + message.detail());
  else if (reason != Refusal::rate_limited)
    log_warning("the portal refuses " + message.resource() + ": " + v1::RefusalReason_Name(message.reason()) +
                (message.detail().empty() ? "" : " (" + message.detail() + ")"));
  if (state.access.gateway().empty() && state.link != nullptr) detach(state, now);
  serve(state, now);
}

void ClientAgent::Impl::send_requests(Now now) {
  for (const auto& [id, state] : states) {
    if (!state->access.waiting()) continue;
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string request_id;
    for (std::uint64_t bits = random.next_u64(); request_id.size() < 16; bits >>= 4)
      request_id.push_back(kDigits[bits & 15]);
    if (!state->access.take_request(now, portal_ready, request_id)) continue;
    v1::ClientToPortal message;
    v1::RequestConnection& request = *message.mutable_request_connection();
    request_id = state->access.request_id();
    request.set_request_id(request_id);
    request.set_resource(id);
    std::set<const Target*> named;
    const auto add_name = [&](Target& target) {
      if (target.name.empty() || named.contains(&target) ||
          request.names_size() >= static_cast<int>(kMaxNamesInRequest))
        return;
      named.insert(&target);
      const dns::ProxyAddresses* addresses = names->find(target.name);
      if (addresses == nullptr) return;
      v1::NameBinding& binding = *request.add_names();
      binding.set_name(target.name);
      binding.set_proxy_v4(to_wire(addresses->v4));
      binding.set_proxy_v6(to_wire(addresses->v6));
      target.requested_in = request_id;
    };
    for (Target* target : state->waiting) add_name(*target);
    for (Target* target : state->asked) add_name(*target);
    // Names in use too: if another gateway is chosen, their flows go on there without a pause.
    for (const auto& [name, target] : state->targets)
      if (target->announced != nullptr && target->used_at + Access::kInUse >= now.monotonic) add_name(*target);
    state->told = connectivity.local_candidates();
    write_candidates(state->told, request.mutable_candidates());
    for (const auto& [gateway, link] : links) {
      if (link->unreachable || link->silent) {
        request.add_unreachable_gateways(gateway);
      } else if (link->session) {
        request.add_connected_gateways(gateway);
      }
    }
    to_portal.push_back(std::move(message));
  }
}

}  // namespace penstock::client
