#include "controlplane/core/broker/broker.h"

#include <algorithm>

#include "controlplane/core/broker/decision.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kRelayNameSteps = 12;  // in the life time of relay credentials

v1::TunnelAddresses to_proto(const TunnelAddresses& addresses) {
  v1::TunnelAddresses out;
  if (!addresses.v4.is_unspecified()) out.set_v4(to_wire(addresses.v4));
  if (!addresses.v6.is_unspecified()) out.set_v6(to_wire(addresses.v6));
  return out;
}

v1::AddressPools to_proto(const Pools& pools) {
  v1::AddressPools out;
  *out.mutable_proxy_v4() = penstock::to_proto(pools.proxy_v4);
  *out.mutable_proxy_v6() = penstock::to_proto(pools.proxy_v6);
  out.set_resolver_v4(to_wire(pools.resolver_v4));
  out.set_resolver_v6(to_wire(pools.resolver_v6));
  return out;
}

}  // namespace

Broker::Broker(BrokerConfig config, std::string secret, const std::map<std::string, std::string>& restored, Now now)
    : config_(std::move(config)), secret_(std::move(secret)) {
  plan_.configure(config_.pools, config_.clients);
  restore(restored, now);
}

std::optional<std::string> Broker::authenticate(Role role, std::string_view token) const {
  const Sha256 digest = sha256(token);
  const std::string* found = nullptr;
  // Every entry is compared, whichever matches.
  if (role == Role::client) {
    for (const auto& [id, client] : config_.clients)
      if (same_digest(digest, client.token_sha256)) found = &id;
  } else {
    for (const auto& [id, gateway] : config_.gateways)
      if (same_digest(digest, gateway.token_sha256)) found = &id;
  }
  return found == nullptr ? std::nullopt : std::optional{*found};
}

void Broker::handle_connected(ConnectionId connection, Role role, const std::string& actor, const Endpoint& observed,
                              Now now) {
  Session session;
  session.role = role;
  session.actor = actor;
  session.observed = observed;
  session.updates_counted = now.monotonic;
  if (role == Role::client) {
    const auto client = config_.clients.find(actor);
    if (client == config_.clients.end()) return close(connection, CloseReason::unauthenticated, "unknown client");
    session.token = client->second.token_sha256;
  } else {
    const auto gateway = config_.gateways.find(actor);
    if (gateway == config_.gateways.end()) return close(connection, CloseReason::unauthenticated, "unknown gateway");
    session.token = gateway->second.token_sha256;
  }
  sessions_[connection] = std::move(session);
  schedule(now.monotonic + kHelloTimeout, {TimerKind::hello, connection, {}});
}

void Broker::handle_message(ConnectionId connection, const v1::ClientToPortal& message, Now now) {
  const auto found = sessions_.find(connection);
  if (found == sessions_.end() || found->second.role != Role::client) return;
  Session& session = found->second;
  if (!session.joined) {
    if (take_hello(connection, session, message.hello(), message.has_hello()))
      join_client(connection, session, message.hello(), now);
    return;
  }
  switch (message.message_case()) {
    case v1::ClientToPortal::kRequestConnection:
      return handle_request(connection, session, message.request_connection(), now);
    case v1::ClientToPortal::kCandidateUpdate:
      return handle_client_update(session, message.candidate_update(), now);
    case v1::ClientToPortal::kHello:
      return close(connection, CloseReason::bad_message, "a second Hello");
    default:
      return;  // from a newer client
  }
}

void Broker::handle_message(ConnectionId connection, const v1::GatewayToPortal& message, Now now) {
  const auto found = sessions_.find(connection);
  if (found == sessions_.end() || found->second.role != Role::gateway) return;
  Session& session = found->second;
  if (!session.joined) {
    if (take_hello(connection, session, message.hello(), message.has_hello()))
      join_gateway(connection, session, message.hello(), now);
    return;
  }
  switch (message.message_case()) {
    case v1::GatewayToPortal::kAuthorizeResult:
      return handle_result(session, message.authorize_result(), now);
    case v1::GatewayToPortal::kCandidateUpdate:
      return handle_gateway_update(session, message.candidate_update());
    case v1::GatewayToPortal::kCandidates:
      session.candidates = bounded(message.candidates().candidates(), session);
      return fan_out_candidates(session.actor);
    case v1::GatewayToPortal::kLoad:
      session.peers = message.load().peers();
      session.busy_permille = std::min(message.load().busy_permille(), 1000U);
      return;
    case v1::GatewayToPortal::kHello:
      return close(connection, CloseReason::bad_message, "a second Hello");
    default:
      return;
  }
}

bool Broker::take_hello(ConnectionId connection, Session& session, const v1::Hello& hello, bool has_hello) {
  if (!has_hello) {
    close(connection, CloseReason::bad_message, "the first message must be Hello");
    return false;
  }
  const auto key = key_from_wire(hello.public_key());
  if (!key) {
    close(connection, CloseReason::bad_message, "Hello.public_key must have 32 bytes");
    return false;
  }
  // The newest stream is the actor's: the older one is dead or about to be.
  if (const auto older = connection_of(session.role, session.actor))
    close(*older, CloseReason::replaced, "replaced by a newer stream of " + session.actor);
  session.joined = true;
  session.public_key = *key;
  session.version = from_proto(hello.protocol_version());
  session.tunnel_port = hello.tunnel_port() <= 65535 ? static_cast<std::uint16_t>(hello.tunnel_port()) : 0;
  joined_[{session.role, session.actor}] = connection;
  return true;
}

void Broker::join_client(ConnectionId connection, Session& session, const v1::Hello&, Now now) {
  const auto allocation = plan_.allocate(session.actor);
  if (!allocation) return close(connection, CloseReason::exhausted, "no tunnel address is left in the pools");
  if (allocation->fresh) outputs_.emplace_back(Persist{"address/" + session.actor, std::to_string(*allocation->fresh)});
  session.tunnel = allocation->addresses;
  note("client " + session.actor + " joined from " + session.observed.to_string() + ", protocol " +
       session.version.to_string());
  send_welcome(connection, session, now);
  rejudge(session.actor, now);  // it may come from elsewhere or with another key
  pay_revocations(connection, session.actor);
  tell_candidates_again(connection, session.actor);
}

void Broker::send_welcome(ConnectionId connection, Session& session, Now now) {
  session.welcomed = true;
  v1::PortalToClient message;
  v1::ClientWelcome& welcome = *message.mutable_welcome();
  welcome.set_client_id(session.actor);
  *welcome.mutable_tunnel() = to_proto(session.tunnel);
  *welcome.mutable_pools() = to_proto(config_.pools);
  session.told.clear();
  for (auto& [id, resource] : visible_resources(session)) {
    session.told[id] = resource.SerializeAsString();
    *welcome.add_resources() = std::move(resource);
  }
  for (auto& relay : relays_for(session, now.wall)) *welcome.add_relays() = std::move(relay);
  *welcome.mutable_observed() = penstock::to_proto(session.observed);
  for (const IpAddress& resolver : config_.upstream_resolvers) welcome.add_upstream_resolvers(to_wire(resolver));
  to_client(connection, std::move(message));
  schedule_relay_refresh(connection, session, now);
}

void Broker::schedule_relay_refresh(ConnectionId connection, Session& session, Now now) {
  if (config_.relays.empty()) return;
  session.relay_refresh = now.monotonic + config_.relay_credential_lifetime / 2;
  schedule(session.relay_refresh, {TimerKind::relay_credentials, connection, {}});
}

void Broker::join_gateway(ConnectionId connection, Session& session, const v1::Hello& hello, Now now) {
  session.candidates = bounded(hello.candidates(), session);
  note("gateway " + session.actor + " joined from " + session.observed.to_string() + ", protocol " +
       session.version.to_string());
  // A new key makes every tunnel and preshared key of the old one void, another version may not fit; the clients ask
  // again with their next packet.
  rejudge_gateway(session.actor, now);

  session.welcomed = true;
  v1::PortalToGateway message;
  v1::GatewayWelcome& welcome = *message.mutable_welcome();
  welcome.set_gateway_id(session.actor);
  welcome.set_site(config_.gateways.at(session.actor).site);
  for (const GrantKey& key : grants_of_gateway_[session.actor])
    *welcome.add_authorisations() = authorize_for(grants_.at(key));
  for (auto& relay : relays_for(session, now.wall)) *welcome.add_relays() = std::move(relay);
  *welcome.mutable_observed() = penstock::to_proto(session.observed);
  *welcome.mutable_site_settings() = site_settings_of(session.actor);
  session.told_site = welcome.site_settings().SerializeAsString();
  to_gateway(connection, std::move(message));
  fan_out_candidates(session.actor);
  tell_back(config_.gateways.at(session.actor).site);

  // What was asked of it before it vanished is asked again: the first Authorize or its answer may be lost.
  for (auto& [key, pending] : pending_)
    if (pending.gateway == session.actor)
      if (const Session* client = session_of(Role::client, key.first)) send_authorize(key, *client, pending, now);
}

v1::SiteSettings Broker::site_settings_of(const std::string& gateway) const {
  const auto settings = config_.site_settings.find(config_.gateways.at(gateway).site);
  return settings == config_.site_settings.end() ? v1::SiteSettings{} : settings->second;
}

void Broker::handle_disconnected(ConnectionId connection, Now) {
  forget_session(connection);
}

void Broker::forget_session(ConnectionId connection) {
  const auto found = sessions_.find(connection);
  if (found == sessions_.end()) return;
  const std::pair<Role, std::string> actor{found->second.role, found->second.actor};
  if (const auto joined = joined_.find(actor); joined != joined_.end() && joined->second == connection) {
    joined_.erase(joined);
    note(std::string{actor.first == Role::client ? "client " : "gateway "} + actor.second + " left");
  }
  sessions_.erase(found);
}

void Broker::close(ConnectionId connection, CloseReason reason, std::string detail) {
  outputs_.emplace_back(Close{connection, reason, std::move(detail)});
  forget_session(connection);
}

std::vector<v1::Relay> Broker::relays_for(const Session& session, WallTime wall) const {
  std::vector<v1::Relay> out;
  for (const RelayConfig& relay : config_.relays) {
    v1::Relay message;
    message.set_id(relay.id);
    for (const Endpoint& endpoint : relay.udp) *message.add_udp() = penstock::to_proto(endpoint);
    for (const RelayStreamServer& server : relay.streams) {
      v1::StreamServer& stream = *message.add_streams();
      *stream.mutable_endpoint() = penstock::to_proto(server.endpoint);
      stream.set_tls(server.tls);
      stream.set_name(server.name);
    }
    message.set_realm(relay.realm);
    if (session.role == Role::client && !relay.shared_secret.empty()) {
      // The same name for every client that asks again within a while: what it has on a relay stands under its name,
      // and can be touched by no other.
      const auto lifetime = static_cast<std::uint64_t>(config_.relay_credential_lifetime.count());
      const std::uint64_t step = std::max<std::uint64_t>(lifetime / kRelayNameSteps, 1);
      const WallTime expires{(wall.seconds + lifetime + step - 1) / step * step, 0};
      const RelayCredential credential = relay_credential(relay.shared_secret, session.actor, expires);
      message.set_username(credential.username);
      message.set_password(credential.password);
      *message.mutable_expires() = penstock::to_proto(credential.expires);
    }
    out.push_back(std::move(message));
  }
  return out;
}

std::map<std::string, v1::Resource> Broker::visible_resources(const Session& session) const {
  std::map<std::string, v1::Resource> out;
  const auto client = config_.clients.find(session.actor);
  if (client == config_.clients.end()) return out;
  for (const Policy& policy : config_.policies)
    if (client->second.groups.contains(policy.group)) out[policy.resource] = config_.resources.at(policy.resource);
  return out;
}

std::optional<ConnectionId> Broker::connection_of(Role role, const std::string& actor) const {
  const auto found = joined_.find({role, actor});
  return found == joined_.end() ? std::nullopt : std::optional{found->second};
}

Broker::Session* Broker::session_of(Role role, const std::string& actor, ConnectionId* connection) {
  const auto id = connection_of(role, actor);
  if (!id) return nullptr;
  if (connection != nullptr) *connection = *id;
  return &sessions_.at(*id);
}

const Broker::Session* Broker::session_of(Role role, const std::string& actor) const {
  const auto id = connection_of(role, actor);
  return id ? &sessions_.at(*id) : nullptr;
}

std::optional<Output> Broker::poll_output() {
  if (outputs_.empty()) return std::nullopt;
  Output out = std::move(outputs_.front());
  outputs_.pop_front();
  return out;
}

Deadline Broker::poll_timeout() const {
  static constexpr const char* kWhy[] = {"hello", "authorize", "grant expiry", "relay credentials"};
  if (timers_.empty()) return {};
  const auto& [at, timer] = *timers_.begin();
  return {at, kWhy[static_cast<std::size_t>(timer.kind)]};
}

void Broker::handle_timeout(Now now) {
  while (!timers_.empty() && timers_.begin()->first <= now.monotonic) {
    const auto [at, timer] = *timers_.begin();
    timers_.erase(timers_.begin());
    switch (timer.kind) {
      case TimerKind::hello: {
        const auto session = sessions_.find(timer.id);
        if (session != sessions_.end() && !session->second.joined)
          close(timer.id, CloseReason::bad_message, "no Hello within 10 s");
        break;
      }
      case TimerKind::authorize: {
        const auto pending = pending_by_number_.find(timer.id);
        if (pending != pending_by_number_.end()) try_next_gateway(GrantKey{pending->second}, now);
        break;
      }
      case TimerKind::grant_expiry: {
        const auto found = grants_.find(timer.grant);
        if (found == grants_.end() || found->second.check_at != at) break;
        if (now.wall >= from_proto(found->second.authorize.expires()))
          drop_grant(timer.grant, "expired");
        else
          schedule_expiry(timer.grant, found->second, now);
        break;
      }
      case TimerKind::relay_credentials: {
        const auto session = sessions_.find(timer.id);
        if (session == sessions_.end() || config_.relays.empty() || session->second.relay_refresh != at) break;
        v1::PortalToClient message;
        for (auto& relay : relays_for(session->second, now.wall))
          *message.mutable_relays_change()->add_relays() = std::move(relay);
        to_client(timer.id, std::move(message));
        schedule_relay_refresh(timer.id, session->second, now);
        break;
      }
    }
  }
}

void Broker::to_client(ConnectionId connection, v1::PortalToClient message) {
  outputs_.emplace_back(SendToClient{connection, std::move(message)});
}

void Broker::to_gateway(ConnectionId connection, v1::PortalToGateway message) {
  if (!sessions_.at(connection).welcomed) return;  // Welcome will say it
  outputs_.emplace_back(SendToGateway{connection, std::move(message)});
}

std::vector<Broker::ActorRow> Broker::actors() const {
  std::map<std::string, std::size_t> per_client;
  for (const auto& [key, grant] : grants_) ++per_client[key.first];
  std::vector<ActorRow> rows;
  for (const auto& [actor, connection] : joined_) {
    const Session& session = sessions_.at(connection);
    ActorRow row{session.role,
                 session.actor,
                 base64(as_text(session.public_key)),
                 session.version.to_string(),
                 session.observed,
                 session.tunnel,
                 0,
                 session.busy_permille};
    if (session.role == Role::client)
      row.grants = per_client.contains(session.actor) ? per_client.at(session.actor) : 0;
    else if (const auto grants = grants_of_gateway_.find(session.actor); grants != grants_of_gateway_.end())
      row.grants = grants->second.size();
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace penstock::broker
