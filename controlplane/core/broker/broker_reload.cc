// Grants: kept, persisted, ended; and what a reload of the configuration means for those who are connected.
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "controlplane/core/broker/broker.h"
#include "controlplane/core/broker/decision.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;
using Json = nlohmann::json;

// The wall clock may be set while a grant stands, so its expiry is looked at at least this often.
constexpr Duration kExpiryCheck = 60s;

std::string encode(const std::string& gateway, const Key& gateway_key, const v1::Authorize& authorize) {
  return Json{{"gateway", gateway},
              {"gateway_key", base64(as_text(gateway_key))},
              {"authorize", base64(authorize.SerializeAsString())}}
      .dump();
}

std::string text_of(const Json& json, const char* key) {
  const auto found = json.is_object() ? json.find(key) : json.end();
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

bool starts_with_erase(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

void Broker::restore(const std::map<std::string, std::string>& restored, Now now) {
  for (const auto& [full_key, value] : restored) {
    std::string_view key = full_key;
    if (starts_with_erase(key, "address/")) {
      std::uint64_t number = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (error == std::errc{} && end == value.data() + value.size()) plan_.restore(std::string{key}, number);
      continue;
    }
    const bool is_grant = starts_with_erase(key, "grant/");
    if (!is_grant && !starts_with_erase(key, "owed/")) continue;
    const std::size_t slash = key.find('/');
    if (slash == std::string_view::npos) continue;
    const GrantKey pair{std::string{key.substr(0, slash)}, std::string{key.substr(slash + 1)}};
    if (!is_grant) {
      owed_[pair.first][pair.second] = value;
      continue;
    }
    const Json json = Json::parse(value, nullptr, false);
    const auto gateway_key_bytes = from_base64(text_of(json, "gateway_key"));
    const auto gateway_key = gateway_key_bytes ? key_from_wire(*gateway_key_bytes) : std::nullopt;
    const auto bytes = from_base64(text_of(json, "authorize"));
    Grant grant;
    grant.gateway = text_of(json, "gateway");
    if (!gateway_key || !bytes || !grant.authorize.ParseFromString(*bytes) ||
        !key_from_wire(grant.authorize.client_public_key())) {
      note("a remembered grant of " + pair.first + " cannot be read and is forgotten");
      outputs_.emplace_back(Persist{full_key, {}});
      continue;
    }
    grant.gateway_key = *gateway_key;
    schedule_expiry(pair, grant, now);
    grants_of_gateway_[grant.gateway].insert(pair);
    grants_[pair] = std::move(grant);
  }
  rejudge(std::string{}, now);
}

v1::Authorize Broker::authorize_for(const Grant& grant) const {
  v1::Authorize out = grant.authorize;
  const auto client = key_from_wire(grant.authorize.client_public_key());
  if (client) out.set_preshared_key(std::string{as_text(preshared_key(secret_, *client, grant.gateway_key))});
  return out;
}

void Broker::store_grant(const GrantKey& key, Grant grant, Now now) {
  if (const auto old = grants_.find(key); old != grants_.end()) grants_of_gateway_[old->second.gateway].erase(key);
  grants_of_gateway_[grant.gateway].insert(key);
  schedule_expiry(key, grant, now);
  outputs_.emplace_back(
      Persist{"grant/" + key.first + "/" + key.second, encode(grant.gateway, grant.gateway_key, grant.authorize)});
  grants_[key] = std::move(grant);
  if (const auto owed = owed_.find(key.first); owed != owed_.end() && owed->second.erase(key.second) != 0)
    outputs_.emplace_back(Persist{"owed/" + key.first + "/" + key.second, {}});
}

void Broker::schedule_expiry(const GrantKey& key, Grant& grant, Now now) {
  grant.check_at = kNever;
  if (!grant.authorize.has_expires()) return;
  const WallTime expires = from_proto(grant.authorize.expires());
  Duration left{0};
  if (expires > now.wall) {
    const std::uint64_t seconds = expires.seconds - now.wall.seconds;
    left = seconds >= 60 ? kExpiryCheck
                         : std::chrono::seconds{seconds} + std::chrono::nanoseconds{expires.nanoseconds} -
                               std::chrono::nanoseconds{now.wall.nanoseconds};
  }
  grant.check_at = now.monotonic + std::clamp<Duration>(left, 0s, kExpiryCheck);
  schedule(grant.check_at, {TimerKind::grant_expiry, 0, key});
}

void Broker::drop_grant(const GrantKey& key, const std::string& why) {
  const auto found = grants_.find(key);
  if (found == grants_.end()) return;
  const std::string gateway = found->second.gateway;
  grants_of_gateway_[gateway].erase(key);
  grants_.erase(found);
  outputs_.emplace_back(Persist{"grant/" + key.first + "/" + key.second, {}});
  note("ended " + key.first + " -> " + key.second + " through " + gateway + ": " + why);
  revoke_at(gateway, key);
  owe_revocation(key, gateway);
}

void Broker::owe_revocation(const GrantKey& key, const std::string& gateway) {
  if (const auto connection = connection_of(Role::client, key.first)) {
    v1::PortalToClient message;
    message.mutable_authorisation_revoked()->set_resource(key.second);
    message.mutable_authorisation_revoked()->set_gateway(gateway);
    return to_client(*connection, std::move(message));
  }
  if (!config_.clients.contains(key.first)) return;  // it cannot come back
  owed_[key.first][key.second] = gateway;
  outputs_.emplace_back(Persist{"owed/" + key.first + "/" + key.second, gateway});
}

void Broker::pay_revocations(ConnectionId connection, const std::string& client) {
  const auto owed = owed_.find(client);
  if (owed == owed_.end()) return;
  for (const auto& [resource, gateway] : owed->second) {
    v1::PortalToClient message;
    message.mutable_authorisation_revoked()->set_resource(resource);
    message.mutable_authorisation_revoked()->set_gateway(gateway);
    to_client(connection, std::move(message));
    outputs_.emplace_back(Persist{"owed/" + client + "/" + resource, {}});
  }
  owed_.erase(owed);
}

bool Broker::still_stands(const GrantKey& key, Grant& grant, bool& changed, std::string& why, Now now) {
  const auto gateway = config_.gateways.find(grant.gateway);
  const auto resource = config_.resources.find(key.second);
  const auto client = config_.clients.find(key.first);
  if (client == config_.clients.end()) return why = "the client is no longer configured", false;
  if (gateway == config_.gateways.end()) return why = "the gateway is no longer configured", false;
  if (resource == config_.resources.end()) return why = "the resource is no longer configured", false;
  if (resource->second.site() != gateway->second.site) return why = "the resource moved to another site", false;
  if (resource->second.kind() != grant.authorize.resource().kind())
    return why = "the resource is of another kind", false;
  const Session* session = session_of(Role::client, key.first);
  if (session != nullptr && as_text(session->public_key) != grant.authorize.client_public_key())
    return why = "the client has a new key", false;
  const Session* gateway_session = session_of(Role::gateway, grant.gateway);
  if (gateway_session != nullptr && gateway_session->public_key != grant.gateway_key)
    return why = "the gateway has a new key", false;
  const ProtocolVersion version = session != nullptr ? session->version : from_proto(grant.authorize.client_version());
  if (gateway_session != nullptr && !may_be_joined(version, gateway_session->version))
    return why = "protocol " + version.to_string() + " does not go with the gateway's " +
                 gateway_session->version.to_string(),
           false;
  const Decision decision =
      judge(config_, key.first, key.second,
            session != nullptr ? std::optional{session->observed.address} : std::nullopt, now.wall);
  if (!decision.allowed) return why = decision.visible ? decision.detail : "no policy names it any more", false;

  v1::Authorize updated = grant.authorize;
  *updated.mutable_resource() = resource->second;
  *updated.mutable_client_version() = penstock::to_proto(version);
  updated.clear_expires();
  if (decision.expires) *updated.mutable_expires() = penstock::to_proto(*decision.expires);
  if (const auto allocation = plan_.allocate(key.first)) {
    updated.clear_tunnel();
    if (!allocation->addresses.v4.is_unspecified()) updated.mutable_tunnel()->set_v4(to_wire(allocation->addresses.v4));
    if (!allocation->addresses.v6.is_unspecified()) updated.mutable_tunnel()->set_v6(to_wire(allocation->addresses.v6));
    if (allocation->fresh) outputs_.emplace_back(Persist{"address/" + key.first, std::to_string(*allocation->fresh)});
  }
  changed = updated.SerializeAsString() != grant.authorize.SerializeAsString();
  grant.authorize = std::move(updated);
  return true;
}

void Broker::rejudge(const std::string& client, Now now) {
  std::vector<GrantKey> keys;
  for (const auto& [key, grant] : grants_)
    if (client.empty() || key.first == client) keys.push_back(key);
  rejudge(keys, now);
}

void Broker::rejudge_gateway(const std::string& gateway, Now now) {
  const std::set<GrantKey>& keys = grants_of_gateway_[gateway];
  rejudge(std::vector<GrantKey>{keys.begin(), keys.end()}, now);
}

void Broker::rejudge(const std::vector<GrantKey>& keys, Now now) {
  for (const GrantKey& key : keys) {
    Grant grant = grants_.at(key);
    bool changed = false;
    std::string why;
    if (!still_stands(key, grant, changed, why, now)) {
      drop_grant(key, why);
      continue;
    }
    if (!changed) continue;
    const std::string gateway = grant.gateway;
    store_grant(key, std::move(grant), now);
    if (const auto connection = connection_of(Role::gateway, gateway)) {
      v1::PortalToGateway message;
      *message.mutable_authorize() = authorize_for(grants_.at(key));
      to_gateway(*connection, std::move(message));
    }
  }
}

void Broker::reconfigure(BrokerConfig config, Now now) {
  const bool relays_changed = config.relays != config_.relays;
  const bool pools_changed = !(config.pools == config_.pools);
  config_ = std::move(config);
  plan_.configure(config_.pools, config_.clients);

  // Rights first: they end before anybody is told what there is instead.
  rejudge(std::string{}, now);

  std::vector<ConnectionId> connections;
  for (const auto& [connection, session] : sessions_) connections.push_back(connection);
  for (const ConnectionId connection : connections) {
    const auto found = sessions_.find(connection);
    if (found == sessions_.end()) continue;
    Session& session = found->second;
    const bool is_client = session.role == Role::client;
    const auto client = config_.clients.find(session.actor);
    const auto gateway = config_.gateways.find(session.actor);
    const bool known = is_client ? client != config_.clients.end() && client->second.token_sha256 == session.token
                                 : gateway != config_.gateways.end() && gateway->second.token_sha256 == session.token;
    if (!known) {
      close(connection, CloseReason::unauthenticated, "the token is no longer valid");
      continue;
    }
    if (!session.joined) continue;
    if (!is_client) {
      const v1::SiteSettings settings = site_settings_of(session.actor);
      if (std::string bytes = settings.SerializeAsString(); session.told_site != bytes) {
        session.told_site = std::move(bytes);
        v1::PortalToGateway message;
        *message.mutable_site_settings() = settings;
        to_gateway(connection, std::move(message));
      }
      if (!relays_changed) continue;
      v1::PortalToGateway message;
      message.mutable_relays_change();
      for (auto& relay : relays_for(session, now.wall)) *message.mutable_relays_change()->add_relays() = relay;
      to_gateway(connection, std::move(message));
      continue;
    }
    const auto allocation = plan_.allocate(session.actor);
    if (!allocation) {
      close(connection, CloseReason::exhausted, "no tunnel address is left in the pools");
      continue;
    }
    if (allocation->fresh)
      outputs_.emplace_back(Persist{"address/" + session.actor, std::to_string(*allocation->fresh)});
    if (pools_changed || !(allocation->addresses == session.tunnel)) {
      session.tunnel = allocation->addresses;
      send_welcome(connection, session, now);
      continue;
    }
    tell_changes(connection, session);
    if (!relays_changed) continue;
    v1::PortalToClient message;
    message.mutable_relays_change();
    for (auto& relay : relays_for(session, now.wall)) *message.mutable_relays_change()->add_relays() = relay;
    to_client(connection, std::move(message));
    schedule_relay_refresh(connection, session, now);
  }
}

void Broker::tell_changes(ConnectionId connection, Session& session) {
  v1::PortalToClient message;
  v1::ResourceChange& change = *message.mutable_resource_change();
  auto visible = visible_resources(session);
  std::erase_if(session.told, [&](const auto& entry) {
    if (visible.contains(entry.first)) return false;
    change.add_removed(entry.first);
    return true;
  });
  for (auto& [id, resource] : visible) {
    std::string bytes = resource.SerializeAsString();
    std::string& told = session.told[id];
    if (told == bytes) continue;
    told = std::move(bytes);
    *change.add_upserted() = std::move(resource);
  }
  if (change.upserted_size() + change.removed_size() != 0) to_client(connection, std::move(message));
}

}  // namespace penstock::broker
