// Candidates: whose are passed on to whom, and how many (docs/paths.md, "Candidates").
#include <algorithm>

#include "controlplane/core/broker/broker.h"

namespace penstock::broker {
namespace {

bool is_multicast(const IpAddress& address) {
  return address.is_v4() ? (address.v4_value() >> 28) == 0xe : address.bytes()[0] == 0xff;
}

bool plausible(const Endpoint& endpoint) {
  return !endpoint.address.is_unspecified() && !is_multicast(endpoint.address);
}

}  // namespace

std::vector<v1::Candidate> Broker::bounded(const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates,
                                           const Session& from) const {
  std::vector<v1::Candidate> out;
  std::vector<Endpoint> seen;
  const auto add = [&](const Endpoint& endpoint, v1::CandidateKind kind) {
    if (out.size() >= kMaxCandidates || !plausible(endpoint)) return;
    if (std::find(seen.begin(), seen.end(), endpoint) != seen.end()) return;
    seen.push_back(endpoint);
    out.push_back(penstock::to_proto(endpoint, kind));
  };
  // Relayed ones first: they are what works when nothing else does, and must not fall over the edge of a long list.
  for (const bool relayed : {true, false}) {
    if (!relayed && from.tunnel_port != 0)
      add({from.observed.address, from.tunnel_port}, v1::CANDIDATE_KIND_SERVER_REFLEXIVE);
    for (const v1::Candidate& candidate : candidates) {
      if ((candidate.kind() == v1::CANDIDATE_KIND_RELAYED) != relayed) continue;
      if (const auto endpoint = from_proto(candidate.endpoint())) add(*endpoint, candidate.kind());
    }
  }
  return out;
}

bool Broker::take_update_token(Session& session, Now now) const {
  const double seconds = std::chrono::duration<double>(now.monotonic - session.updates_counted).count();
  session.updates_counted = now.monotonic;
  session.update_tokens = std::min(20.0, session.update_tokens + seconds * 2.0);
  if (session.update_tokens < 1.0) return false;
  session.update_tokens -= 1.0;
  return true;
}

void Broker::handle_client_update(Session& session, const v1::CandidateUpdate& update, Now now) {
  // Only to a gateway the client has business with, or clients could make gateways send to addresses of their choice.
  bool related = false;
  for (const auto& [id, resource] : session.told) {
    const GrantKey key{session.actor, id};
    const auto pending = pending_.find(key);
    if (pending != pending_.end() && pending->second.gateway == update.gateway()) {
      *pending->second.request.mutable_candidates() = update.candidates();
      related = true;
    }
    // A gateway that is away just now reads them in its next Welcome.
    const auto grant = grants_.find(key);
    if (grant == grants_.end() || grant->second.gateway != update.gateway()) continue;
    related = true;
    grant->second.authorize.clear_candidates();
    for (auto& candidate : bounded(update.candidates(), session))
      *grant->second.authorize.add_candidates() = std::move(candidate);
  }
  const auto connection = connection_of(Role::gateway, update.gateway());
  if (!related || !connection || !take_update_token(session, now)) return;
  v1::PortalToGateway message;
  v1::CandidateUpdate& out = *message.mutable_candidate_update();
  out.set_client_public_key(std::string{as_text(session.public_key)});
  for (auto& candidate : bounded(update.candidates(), session)) *out.add_candidates() = candidate;
  to_gateway(*connection, std::move(message));
}

void Broker::handle_gateway_update(Session& session, const v1::CandidateUpdate& update) {
  for (const GrantKey& key : grants_of_gateway_[session.actor]) {
    if (grants_.at(key).authorize.client_public_key() != update.client_public_key()) continue;
    const auto connection = connection_of(Role::client, key.first);
    if (!connection) return;
    v1::PortalToClient message;
    v1::CandidateUpdate& out = *message.mutable_candidate_update();
    out.set_gateway(session.actor);
    for (auto& candidate : bounded(update.candidates(), session)) *out.add_candidates() = candidate;
    to_client(*connection, std::move(message));
    return;
  }
}

void Broker::fan_out_candidates(const std::string& gateway) {
  std::set<std::string> clients;
  for (const GrantKey& key : grants_of_gateway_[gateway]) clients.insert(key.first);
  for (const std::string& client : clients)
    if (const auto connection = connection_of(Role::client, client)) send_candidates(*connection, gateway);
}

// What a gateway said while a client's stream was broken without anybody knowing went nowhere.
void Broker::tell_candidates_again(ConnectionId connection, const std::string& client) {
  std::set<std::string> gateways;
  for (auto grant = grants_.lower_bound({client, {}}); grant != grants_.end() && grant->first.first == client; ++grant)
    gateways.insert(grant->second.gateway);
  for (const std::string& gateway : gateways) send_candidates(connection, gateway);
}

void Broker::send_candidates(ConnectionId to, const std::string& gateway) {
  const Session* session = session_of(Role::gateway, gateway);
  if (session == nullptr || session->candidates.empty()) return;  // no list says nothing new
  v1::PortalToClient message;
  v1::CandidateUpdate& out = *message.mutable_candidate_update();
  out.set_gateway(gateway);
  for (const auto& candidate : session->candidates) *out.add_candidates() = candidate;
  to_client(to, std::move(message));
}

}  // namespace penstock::broker
