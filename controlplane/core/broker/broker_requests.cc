// Connections: from RequestConnection to ConnectionGranted or ConnectionRefused (docs/paths.md, "First packet").
#include <algorithm>

#include "controlplane/core/broker/broker.h"
#include "controlplane/core/broker/decision.h"
#include "dataplane/core/policy/pattern.h"

namespace penstock::broker {
namespace {

constexpr std::size_t kMaxRateEntries = 65536;
constexpr int kMaxRepetitions = 3;
constexpr ProtocolVersion kLazy{1, 1};  // clients that heal; those before know of no gateway but the granted one

// The names that lie under the resource and have a proxy address of the pools.
std::vector<v1::NameBinding> valid_names(const v1::Resource& resource, const Pools& pools,
                                         const google::protobuf::RepeatedPtrField<v1::NameBinding>& names) {
  std::vector<v1::NameBinding> out;
  const auto pattern = policy::Pattern::parse(resource.pattern());
  for (const v1::NameBinding& binding : names) {
    const auto name = policy::normalise_name(binding.name());
    if (!pattern || !name || !pattern->matches(*name) || out.size() >= kMaxNamesPerGrant) continue;
    const auto v4 = address_from_wire(binding.proxy_v4());
    const auto v6 = address_from_wire(binding.proxy_v6());
    if (v4 && !pools.proxy_v4.contains(*v4)) continue;
    if (v6 && !pools.proxy_v6.contains(*v6)) continue;
    if (!v4 && !v6) continue;
    v1::NameBinding clean = binding;
    clean.set_name(*name);
    out.push_back(std::move(clean));
  }
  return out;
}

// Later bindings win, by name and by proxy address (a client that lost its map numbers anew, and an address must not
// lead to the host of its former name); the oldest go when there are too many.
void merge_names(google::protobuf::RepeatedPtrField<v1::NameBinding>& into, const std::vector<v1::NameBinding>& names) {
  for (const v1::NameBinding& binding : names) {
    const auto stale = [&](const v1::NameBinding& other) {
      return other.name() == binding.name() ||
             (!binding.proxy_v4().empty() && other.proxy_v4() == binding.proxy_v4()) ||
             (!binding.proxy_v6().empty() && other.proxy_v6() == binding.proxy_v6());
    };
    into.erase(std::remove_if(into.begin(), into.end(), stale), into.end());
    *into.Add() = binding;
  }
  const int extra = into.size() - static_cast<int>(kMaxNamesPerGrant);
  if (extra > 0) into.DeleteSubrange(0, extra);
}

// Words for whoever can do something about it: which end is too old.
std::string mismatch_text(const std::string& gateway, const std::string& site, ProtocolVersion theirs,
                          ProtocolVersion ours) {
  const std::string both = "gateway " + gateway + " of site " + site + " speaks protocol " + theirs.to_string() +
                           ", this client " + ours.to_string();
  if (theirs < ours) return both + ": upgrade gateway " + gateway;
  return both + ": upgrade the client";
}

bool contains(const google::protobuf::RepeatedPtrField<std::string>& list, const std::string& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

void Broker::handle_request(ConnectionId connection, Session& session, const v1::RequestConnection& request, Now now) {
  if (request.request_id().size() > 128 || request.resource().size() > 128)
    return close(connection, CloseReason::bad_message, "RequestConnection with an oversized id");
  const GrantKey key{session.actor, request.resource()};
  const auto under_way = pending_.find(key);
  // A repetition of what is being worked on: its answer will come.
  if (under_way != pending_.end() && under_way->second.request_id == request.request_id()) return;

  // One that comes again over another stream is not asked too often: its answer was lost with the stream before.
  const auto last = last_request_.find(key);
  const bool same = last != last_request_.end() && last->second.request_id == request.request_id();
  const int repeated = same ? last->second.repeated + 1 : 0;
  const bool soon = last != last_request_.end() && now.monotonic - last->second.at < kRequestInterval - kRequestSlack;
  // One that knows of another gateway of ours that is lost need not wait; there are only so many.
  std::set<std::string> unreachable = soon ? last->second.unreachable : std::set<std::string>{};
  const std::size_t known = unreachable.size();
  for (const std::string& gateway : request.unreachable_gateways())
    if (config_.gateways.contains(gateway)) unreachable.insert(gateway);
  if (soon && unreachable.size() == known && (!same || repeated > kMaxRepetitions))
    return refuse(connection, request, v1::REFUSAL_REASON_RATE_LIMITED, "asked for less than 2 s ago");

  const Decision decision = judge(config_, session.actor, request.resource(), session.observed.address, now.wall);
  if (!decision.visible)
    return refuse(connection, request, v1::REFUSAL_REASON_NOT_FOUND, "no policy of this client names such a resource");
  if (last_request_.size() >= kMaxRateEntries)
    std::erase_if(last_request_, [&](const auto& entry) { return now.monotonic - entry.second.at > kRequestInterval; });
  // Only of resources that exist, so the map is bounded.
  last_request_[key] = {now.monotonic, request.request_id(), repeated, std::move(unreachable)};
  if (!decision.allowed) return refuse(connection, request, v1::REFUSAL_REASON_FORBIDDEN, decision.detail);

  const v1::Resource& resource = config_.resources.at(request.resource());
  if (resource.kind() == v1::RESOURCE_KIND_DNS && !request.names().empty() &&
      valid_names(resource, config_.pools, request.names()).empty())
    return refuse(connection, request, v1::REFUSAL_REASON_NOT_FOUND,
                  "no name in the request lies under " + resource.pattern());

  // One under way is superseded: what the client knows by now counts. Its gateway simply hears the newer Authorize.
  Pending& pending = pending_[key];
  if (pending.number != 0) pending_by_number_.erase(pending.number);
  const std::string before = pending.gateway;
  pending = {};
  pending.request_id = request.request_id();
  pending.request = request;
  pending.gateway = before;
  // Of what was granted already, the same gateway: its tunnel may be coming up.
  if (const auto grant = grants_.find(key); same && grant != grants_.end())
    pending.request.add_connected_gateways(grant->second.gateway);
  try_next_gateway(key, now);
}

void Broker::refuse(ConnectionId connection, const v1::RequestConnection& request, v1::RefusalReason reason,
                    std::string detail) {
  v1::PortalToClient message;
  v1::ConnectionRefused& refused = *message.mutable_connection_refused();
  refused.set_request_id(request.request_id());
  refused.set_resource(request.resource());
  refused.set_reason(reason);
  refused.set_detail(detail);
  Session& session = sessions_.at(connection);
  if (reason != v1::REFUSAL_REASON_RATE_LIMITED)
    note("refused " + session.actor + " -> " + request.resource() + ": " + detail);
  if (reason == v1::REFUSAL_REASON_OFFLINE) session.offline.insert(request.resource());
  to_client(connection, std::move(message));
}

// Clients back off while they are refused; who was refused because no gateway was there need not wait that out.
void Broker::tell_back(const std::string& site) {
  for (auto& [connection, session] : sessions_) {
    if (session.offline.empty()) continue;
    v1::PortalToClient message;
    std::erase_if(session.offline, [&](const std::string& id) {
      const auto resource = config_.resources.find(id);
      if (resource == config_.resources.end() || !session.told.contains(id)) return true;
      if (resource->second.site() != site) return false;
      message.mutable_resource_change()->add_upserted()->ParseFromString(session.told.at(id));
      return true;
    });
    if (message.has_resource_change()) to_client(connection, std::move(message));
  }
}

std::string Broker::choose_gateway(const Session& client, const Pending& pending, v1::RefusalReason& reason,
                                   std::string& detail) const {
  const std::string& site = config_.resources.at(pending.request.resource()).site();
  const std::string* best = nullptr;
  std::tuple<bool, bool, std::uint32_t, std::uint32_t> best_rank;
  std::string mismatched;
  bool seen = false;
  for (const auto& [id, gateway] : config_.gateways) {
    if (gateway.site != site) continue;
    const Session* session = session_of(Role::gateway, id);
    if (session == nullptr) continue;
    if (!may_be_joined(client.version, session->version)) {
      mismatched += (mismatched.empty() ? "" : "; ") + mismatch_text(id, site, session->version, client.version);
      continue;
    }
    seen = true;
    if (pending.tried.contains(id)) continue;
    // One the client could not reach comes last, yet it comes: it may be back, and nothing else may be there.
    const bool unreachable = contains(pending.request.unreachable_gateways(), id);
    const bool connected = contains(pending.request.connected_gateways(), id);
    const std::tuple rank{unreachable, !connected, session->busy_permille / 100, session->peers};
    if (best == nullptr || rank < best_rank) {
      best = &id;
      best_rank = rank;
    }
  }
  if (best != nullptr) return *best;
  if (!seen && !mismatched.empty()) {
    reason = v1::REFUSAL_REASON_VERSION_MISMATCH;
    detail = mismatched;
  } else {
    reason = v1::REFUSAL_REASON_OFFLINE;
    detail = seen ? "no gateway of site " + site + " answered" : "no gateway of site " + site + " is connected";
  }
  return {};
}

void Broker::try_next_gateway(const GrantKey& key, Now now) {
  Pending& pending = pending_.at(key);
  if (pending.number != 0) pending_by_number_.erase(pending.number);
  const std::string before = std::exchange(pending.gateway, {});
  ConnectionId connection = 0;
  const Session* client = session_of(Role::client, key.first, &connection);
  v1::RefusalReason reason = v1::REFUSAL_REASON_OFFLINE;
  std::string detail;
  if (client != nullptr && config_.resources.contains(key.second))
    pending.gateway = choose_gateway(*client, pending, reason, detail);
  const std::string chosen = pending.gateway;
  if (chosen.empty()) {
    const v1::RequestConnection request = std::move(pending.request);
    pending_.erase(key);
    if (client != nullptr) refuse(connection, request, reason, detail);
  } else {
    pending.tried.insert(chosen);
    pending.number = ++next_number_;
    pending.deadline = now.monotonic + kAuthorizeTimeout;
    pending_by_number_[pending.number] = key;
    schedule(pending.deadline, {TimerKind::authorize, pending.number, {}});
    // Its relays can let the gateway in before that one has answered. A client that reaches it knows its addresses.
    if (client->version >= kLazy && !contains(pending.request.connected_gateways(), chosen))
      send_candidates(connection, chosen);
    send_authorize(key, *client, pending, now);
  }
  // A gateway that was given up may have carried the Authorize out all the same.
  if (!before.empty() && before != chosen) revoke_at(before, key);
}

void Broker::revoke_at(const std::string& gateway, const GrantKey& key) {
  const auto standing = grants_.find(key);
  if (standing != grants_.end() && standing->second.gateway == gateway) return;
  const auto connection = connection_of(Role::gateway, gateway);
  if (!connection) return;
  v1::PortalToGateway message;
  message.mutable_revoke()->set_authorisation(key.first + "/" + key.second);
  to_gateway(*connection, std::move(message));
}

void Broker::send_authorize(const GrantKey& key, const Session& client, Pending& pending, Now now) {
  ConnectionId connection = 0;
  const Session* gateway = session_of(Role::gateway, pending.gateway, &connection);
  if (gateway == nullptr) return;
  const Decision decision = judge(config_, key.first, key.second, client.observed.address, now.wall);
  if (!decision.allowed) return;
  const v1::Resource& resource = config_.resources.at(key.second);
  v1::PortalToGateway message;
  v1::Authorize& authorize = *message.mutable_authorize();
  authorize.set_request_id(std::to_string(pending.number));
  authorize.set_authorisation(key.first + "/" + key.second);
  authorize.set_client(key.first);
  authorize.set_client_public_key(std::string{as_text(client.public_key)});
  authorize.set_preshared_key(std::string{as_text(preshared_key(secret_, client.public_key, gateway->public_key))});
  if (!client.tunnel.v4.is_unspecified()) authorize.mutable_tunnel()->set_v4(to_wire(client.tunnel.v4));
  if (!client.tunnel.v6.is_unspecified()) authorize.mutable_tunnel()->set_v6(to_wire(client.tunnel.v6));
  *authorize.mutable_resource() = resource;
  if (const auto standing = grants_.find(key); standing != grants_.end())
    *authorize.mutable_names() = standing->second.authorize.names();
  if (resource.kind() == v1::RESOURCE_KIND_DNS)
    merge_names(*authorize.mutable_names(), valid_names(resource, config_.pools, pending.request.names()));
  if (decision.expires) *authorize.mutable_expires() = penstock::to_proto(*decision.expires);
  pending.resource = resource.SerializeAsString();
  pending.expires = decision.expires;
  for (auto& candidate : bounded(pending.request.candidates(), client)) *authorize.add_candidates() = candidate;
  *authorize.mutable_client_version() = penstock::to_proto(client.version);
  to_gateway(connection, std::move(message));
}

void Broker::handle_result(Session& gateway, const v1::AuthorizeResult& result, Now now) {
  std::uint64_t number = 0;
  const std::string& text = result.request_id();
  if (!text.empty() && text.size() < 20 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }))
    number = std::stoull(text);
  const auto found = pending_by_number_.find(number);
  const bool ours = found != pending_by_number_.end() && pending_.at(found->second).gateway == gateway.actor;
  if (!ours) {
    if (!result.ok() && !result.error().empty())
      note("gateway " + gateway.actor + " refused " + result.authorisation() + ": " + result.error());
    // Too late: whatever it set up for a request that went elsewhere must not stay.
    const std::size_t slash = result.authorisation().find('/');
    if (result.ok() && number != 0 && slash != std::string::npos) {
      const GrantKey key{result.authorisation().substr(0, slash), result.authorisation().substr(slash + 1)};
      const auto pending = pending_.find(key);
      if (pending == pending_.end() || pending->second.gateway != gateway.actor) revoke_at(gateway.actor, key);
    }
    return;
  }
  const GrantKey key = found->second;
  if (!result.candidates().empty()) gateway.candidates = bounded(result.candidates(), gateway);
  if (!result.ok()) {
    note("gateway " + gateway.actor + " refused " + key.first + "/" + key.second + ": " + result.error());
    return try_next_gateway(key, now);
  }
  Pending pending = std::move(pending_.at(key));
  pending_by_number_.erase(found);
  pending_.erase(key);
  grant(key, std::move(pending), gateway, result, now);
}

void Broker::grant(const GrantKey& key, Pending pending, Session& gateway, const v1::AuthorizeResult&, Now now) {
  ConnectionId connection = 0;
  const Session* client = session_of(Role::client, key.first, &connection);
  // Judged again: a reload may have come between question and answer.
  const Decision decision = judge(config_, key.first, key.second,
                                  client != nullptr ? std::optional{client->observed.address} : std::nullopt, now.wall);
  if (client == nullptr || !decision.allowed) {
    revoke_at(gateway.actor, key);
    if (client != nullptr)
      refuse(connection, pending.request,
             decision.visible ? v1::REFUSAL_REASON_FORBIDDEN : v1::REFUSAL_REASON_NOT_FOUND, decision.detail);
    return;
  }
  const v1::Resource& resource = config_.resources.at(key.second);
  if (resource.site() != config_.gateways.at(gateway.actor).site) {
    revoke_at(gateway.actor, key);
    return refuse(connection, pending.request, v1::REFUSAL_REASON_OFFLINE, "the resource has moved to another site");
  }
  // Until the gateway reports its load again, whom it has just been given counts: or a thousand clients that come at
  // once would all be sent to the one that was least loaded a moment ago.
  const auto& held = grants_of_gateway_[gateway.actor];
  if (std::none_of(held.begin(), held.end(), [&](const GrantKey& other) { return other.first == key.first; }))
    ++gateway.peers;
  Grant fresh;
  std::string former;
  if (const auto standing = grants_.find(key); standing != grants_.end()) {
    fresh.authorize = standing->second.authorize;
    former = standing->second.gateway;
  }
  fresh.gateway = gateway.actor;
  fresh.gateway_key = gateway.public_key;
  v1::Authorize& authorize = fresh.authorize;
  authorize.set_authorisation(key.first + "/" + key.second);
  authorize.set_client(key.first);
  authorize.set_client_public_key(std::string{as_text(client->public_key)});
  authorize.clear_tunnel();
  if (!client->tunnel.v4.is_unspecified()) authorize.mutable_tunnel()->set_v4(to_wire(client->tunnel.v4));
  if (!client->tunnel.v6.is_unspecified()) authorize.mutable_tunnel()->set_v6(to_wire(client->tunnel.v6));
  *authorize.mutable_resource() = resource;
  if (resource.kind() == v1::RESOURCE_KIND_DNS)
    merge_names(*authorize.mutable_names(), valid_names(resource, config_.pools, pending.request.names()));
  authorize.clear_expires();
  if (decision.expires) *authorize.mutable_expires() = penstock::to_proto(*decision.expires);
  authorize.clear_candidates();
  for (auto& candidate : bounded(pending.request.candidates(), *client)) *authorize.add_candidates() = candidate;
  *authorize.mutable_client_version() = penstock::to_proto(client->version);
  store_grant(key, std::move(fresh), now);
  if (!former.empty() && former != gateway.actor) revoke_at(former, key);
  if (pending.resource != resource.SerializeAsString() || pending.expires != decision.expires) {
    v1::PortalToGateway update;
    *update.mutable_authorize() = authorize_for(grants_.at(key));
    to_gateway(*connection_of(Role::gateway, gateway.actor), std::move(update));
  }

  v1::PortalToClient message;
  v1::ConnectionGranted& granted = *message.mutable_connection_granted();
  granted.set_request_id(pending.request_id);
  granted.set_resource(key.second);
  granted.set_gateway(gateway.actor);
  granted.set_gateway_public_key(std::string{as_text(gateway.public_key)});
  granted.set_preshared_key(std::string{as_text(preshared_key(secret_, client->public_key, gateway.public_key))});
  for (const auto& candidate : gateway.candidates) *granted.add_candidates() = candidate;
  if (decision.expires) *granted.mutable_expires() = penstock::to_proto(*decision.expires);
  *granted.mutable_gateway_version() = penstock::to_proto(gateway.version);
  to_client(connection, std::move(message));
  note("granted " + key.first + " -> " + key.second + " through " + gateway.actor);
}

}  // namespace penstock::broker
