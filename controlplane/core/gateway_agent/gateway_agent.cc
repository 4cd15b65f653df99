#include "controlplane/core/gateway_agent/gateway_agent.h"

#include <algorithm>
#include <utility>

#include "controlplane/core/broker/version.h"

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kExpiryCheck = 60s;  // the wall clock may be set meanwhile
constexpr Duration kLoadInterval = 5s;

bool is_multicast(const IpAddress& address) {
  return address.is_v4() ? (address.v4_value() >> 28) == 0xe : address.bytes()[0] == 0xff;
}

bool is_local(const IpAddress& address) {
  static const Prefix kPrefixes[] = {*Prefix::parse("0.0.0.0/8"),      *Prefix::parse("127.0.0.0/8"),
                                     *Prefix::parse("169.254.0.0/16"), *Prefix::parse("240.0.0.0/4"),
                                     *Prefix::parse("::/127"),         *Prefix::parse("fe80::/10")};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                     [&](const Prefix& prefix) { return prefix.contains(address); });
}

IpAddress last_address(const Prefix& prefix) {
  return IpAddress::v4(prefix.address().v4_value() |
                       (prefix.length() == 0 ? 0xffffffff : (std::uint32_t{1} << (32 - prefix.length())) - 1));
}

}  // namespace

GatewayAgent::GatewayAgent(AgentConfig config, Random& random)
    : config_(std::move(config)),
      random_(&random),
      resolver_([this](const IpAddress& address) { return forbidden(address); }),
      gatherer_(random),
      outbox_(random.next_u64() >> 1) {}

bool GatewayAgent::forbidden(const IpAddress& address) const {
  // Before the data plane has said which addresses are its own nothing may be used.
  return !forbidden_ || forbidden_->contains(address);
}

bool GatewayAgent::may_punch(const Endpoint& endpoint) const {
  const IpAddress& address = endpoint.address;
  if (endpoint.port == 0 || address.is_unspecified() || is_multicast(address) || is_local(address)) return false;
  if (own_addresses_.contains(address)) return false;
  for (const Prefix* pool : {&config_.tunnel_v4, &config_.tunnel_v6, &config_.proxy_v4, &config_.proxy_v6})
    if (pool->contains(address)) return false;
  for (const Prefix& network : own_networks_) {
    if (!network.contains(address)) continue;
    if (address.is_v4() && network.length() < 31 && address == last_address(network)) return false;
    return std::any_of(config_.punch_allowed.begin(), config_.punch_allowed.end(),
                       [&](const Prefix& allowed) { return allowed.contains(address); });
  }
  return true;
}

// ---- portal ----

void GatewayAgent::handle_portal_connected(Now now) {
  portal_connected_ = true;
  stream_welcomed_ = false;
  if (!info_) return;
  v1::GatewayToPortal message;
  v1::Hello& hello = *message.mutable_hello();
  *hello.mutable_protocol_version() = to_proto(config_.protocol);
  hello.set_software_version(PENSTOCK_VERSION);
  hello.set_public_key(info_->public_key());
  hello.set_hostname(config_.hostname);
  hello.set_tunnel_port(info_->tunnel_port());
  for (auto& candidate : candidates()) *hello.add_candidates() = std::move(candidate);
  outputs_.emplace_back(ToPortal{std::move(message)});
  next_load_ = now.monotonic;
  told_load_ = ~0U;
}

void GatewayAgent::handle_portal_disconnected(Now) {
  portal_connected_ = false;
  stream_welcomed_ = false;
}

void GatewayAgent::handle_portal(const v1::PortalToGateway& message, Now now) {
  if (message.has_welcome()) return take_welcome(message.welcome(), now);
  if (!stream_welcomed_) return;  // increments of a snapshot we do not have
  switch (message.message_case()) {
    case v1::PortalToGateway::kAuthorize: {
      const v1::Authorize& wanted = message.authorize();
      const std::string error = dataplane_up_ ? authorize(wanted, now) : std::string{"the data plane is not connected"};
      if (!error.empty()) return send_result(wanted.request_id(), wanted.authorisation(), error);
      collecting_.results.push_back({wanted.request_id(), wanted.authorisation()});
      return;
    }
    case v1::PortalToGateway::kRevoke:
      return revoke(message.revoke().authorisation(), "revoked", now);
    case v1::PortalToGateway::kCandidateUpdate: {
      const auto key = key_from_wire(message.candidate_update().client_public_key());
      const auto peer = key ? peers_.find(*key) : peers_.end();
      if (peer != peers_.end()) update_candidates(*key, peer->second, message.candidate_update().candidates(), now);
      return;
    }
    case v1::PortalToGateway::kRelaysChange:
      return set_relays(message.relays_change().relays(), now);
    case v1::PortalToGateway::kSiteSettings:
      site_settings_ = message.site_settings();
      note("the site's settings have changed");
      return add_operation(site_operation());
    default:
      return;  // from a newer portal
  }
}

void GatewayAgent::take_welcome(const v1::GatewayWelcome& welcome, Now now) {
  gateway_id_ = welcome.gateway_id();
  site_settings_ = welcome.site_settings();
  welcomed_ = true;
  stream_welcomed_ = true;
  // Authoritative: what is not in it is gone (traps flow-8, flow-9).
  std::set<std::string> named;
  for (const v1::Authorize& wanted : welcome.authorisations()) named.insert(wanted.authorisation());
  std::vector<std::string> gone;
  for (const auto& [id, it] : authorisations_)
    if (!named.contains(id)) gone.push_back(id);
  for (const std::string& id : gone) revoke(id, "not in the portal's snapshot", now);
  for (const v1::Authorize& wanted : welcome.authorisations())
    if (const std::string error = authorize(wanted, now); !error.empty())
      note("authorisation " + wanted.authorisation() + " not taken: " + error);
  set_relays(welcome.relays(), now);
  note("welcomed as " + gateway_id_ + " with " + std::to_string(authorisations_.size()) + " authorisations");
  if (dataplane_up_) synchronise(now);
}

std::string GatewayAgent::authorize(const v1::Authorize& message, Now now) {
  const auto key = key_from_wire(message.client_public_key());
  const auto preshared_key = key_from_wire(message.preshared_key());
  const auto tunnel_v4 = address_from_wire(message.tunnel().v4());
  const auto tunnel_v6 = address_from_wire(message.tunnel().v6());
  const v1::Resource& resource = message.resource();
  if (message.authorisation().empty() || message.authorisation().size() > 255) return "malformed id";
  if (resource.id().empty() || resource.id().size() > 255) return "malformed resource id";
  if (!key) return "malformed client key";
  if (!preshared_key) return "malformed preshared key";
  if (!tunnel_v4 && !tunnel_v6) return "no tunnel address";
  std::optional<policy::Pattern> pattern;
  switch (resource.kind()) {
    case v1::RESOURCE_KIND_DNS:
      pattern = policy::Pattern::parse(resource.pattern());
      if (!pattern) return "malformed pattern";
      break;
    case v1::RESOURCE_KIND_ADDRESS:
    case v1::RESOURCE_KIND_CIDR:
      if (!from_proto(resource.prefix())) return "malformed prefix";
      break;
    case v1::RESOURCE_KIND_INTERNET:
      break;
    default:
      return "unknown kind of resource";
  }
  if (message.has_expires() && from_proto(message.expires()) <= now.wall) return "already expired";

  const auto known = authorisations_.find(message.authorisation());
  if (known != authorisations_.end() && known->second.peer != *key)
    revoke(message.authorisation(), "the client has a new key", now);

  Peer& peer = peers_[*key];
  const bool fresh = !peer.preshared_key;
  peer.client = message.client();
  peer.preshared_key = preshared_key;
  peer.tunnel_v4 = tunnel_v4.value_or(IpAddress{});
  peer.tunnel_v6 = tunnel_v6.value_or(IpAddress{});
  peer.pinned =
      message.has_client_version() && message.client_version().major() == 1 && message.client_version().minor() == 0;
  peer.authorisations.insert(message.authorisation());
  Authorisation& it = authorisations_[message.authorisation()];
  const bool had_names = it.pattern.has_value();
  it.peer = *key;
  it.resource = resource;
  it.pattern = std::move(pattern);
  it.expires = message.has_expires() ? std::optional{from_proto(message.expires())} : std::nullopt;
  if (it.expires) {
    expiring_.insert({*it.expires, message.authorisation()});
    next_expiry_check_ = now.monotonic;
  }
  take_candidates(*key, peer, message.candidates(), now);
  add_operation(peer_operation(*key, peer), message.authorisation());
  add_operation(authorisation_operation(message.authorisation(), it), message.authorisation());
  if (had_names) drop_orphans(*key, peer);  // the pattern may have changed
  for (const v1::NameBinding& binding : message.names()) {
    const std::string id = add_translation(*key, resource.id(), binding.name(),
                                           address_from_wire(binding.proxy_v4()).value_or(IpAddress{}),
                                           address_from_wire(binding.proxy_v6()).value_or(IpAddress{}), now);
    if (!id.empty()) resolver_.want(translations_.at(id).name, peer.client, now.monotonic);
  }
  if (fresh) note("client " + peer.client + " may reach " + resource.id());
  return {};
}

void GatewayAgent::revoke(const std::string& id, const std::string& why, Now) {
  const auto found = authorisations_.find(id);
  if (found == authorisations_.end()) return;
  const Key key = found->second.peer;
  note("authorisation " + id + " ended: " + why);
  authorisations_.erase(found);
  Peer& peer = peers_.at(key);
  peer.authorisations.erase(id);
  v1::Operation operation;
  operation.set_remove_authorisation(id);
  add_operation(std::move(operation));
  drop_orphans(key, peer);
  if (!peer.authorisations.empty()) return;
  v1::Control goodbye;
  goodbye.mutable_goodbye()->set_reason(why);
  if (peer.session) outbox_.send(key, std::move(goodbye));
  outbox_.remove(key);
  puncher_.remove(key);
  std::erase_if(raw_queries_, [&](const auto& entry) { return entry.second.peer == key; });
  peers_.erase(key);
  v1::Operation removal;
  removal.set_remove_peer(std::string{as_text(key)});
  add_operation(std::move(removal));
}

bool GatewayAgent::take_candidates(const Key& key, Peer& peer,
                                   const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates, Now now) {
  std::vector<Endpoint> usable;
  for (const v1::Candidate& candidate : candidates) {
    const auto endpoint = from_proto(candidate.endpoint());
    if (!endpoint || !may_punch(*endpoint) || usable.size() >= kMaxCandidates) continue;
    if (std::find(usable.begin(), usable.end(), *endpoint) == usable.end()) usable.push_back(*endpoint);
  }
  if (usable.empty()) return false;  // an empty list says nothing new
  const bool others = peer.candidates != usable;
  peer.candidates = std::move(usable);
  puncher_.set_targets(key, peer.candidates, now.monotonic);
  return others;
}

void GatewayAgent::update_candidates(const Key& key, Peer& peer,
                                     const google::protobuf::RepeatedPtrField<v1::Candidate>& candidates, Now now) {
  if (take_candidates(key, peer, candidates, now) && peer.preshared_key) add_operation(peer_operation(key, peer));
}

void GatewayAgent::set_relays(const google::protobuf::RepeatedPtrField<v1::Relay>& relays, Now now) {
  std::vector<Endpoint> servers;
  for (const v1::Relay& relay : relays)
    for (const v1::Endpoint& udp : relay.udp())
      if (const auto endpoint = from_proto(udp); endpoint && servers.size() < kMaxStunServers)
        servers.push_back(*endpoint);
  gatherer_.set_servers(servers, now.monotonic);
  add_operation(stun_operation());
  announce_candidates(now);
}

std::vector<v1::Candidate> GatewayAgent::candidates() const {
  std::vector<v1::Candidate> out;
  std::set<Endpoint> seen;
  const auto add = [&](const Endpoint& endpoint, v1::CandidateKind kind) {
    if (out.size() < kMaxCandidates && seen.insert(endpoint).second) out.push_back(to_proto(endpoint, kind));
  };
  for (const Endpoint& endpoint : config_.candidates) add(endpoint, v1::CANDIDATE_KIND_HOST);
  for (const Endpoint& endpoint : gatherer_.mapped()) add(endpoint, v1::CANDIDATE_KIND_SERVER_REFLEXIVE);
  if (info_ && info_->tunnel_port() != 0 && info_->tunnel_port() <= 65535)
    for (const std::string& bytes : info_->tunnel_addresses())
      if (const auto address = address_from_wire(bytes))
        add({*address, static_cast<std::uint16_t>(info_->tunnel_port())}, v1::CANDIDATE_KIND_HOST);
  return out;
}

void GatewayAgent::announce_candidates(Now now) {
  v1::GatewayToPortal message;
  message.mutable_candidates();
  for (auto& candidate : candidates()) *message.mutable_candidates()->add_candidates() = std::move(candidate);
  std::string bytes = message.SerializeAsString();
  if (bytes == told_candidates_) return;
  told_candidates_ = std::move(bytes);
  // In the tunnel as well: the portal may be away exactly now.
  for (const auto& [key, peer] : peers_) {
    if (!peer.session) continue;
    v1::Control control;
    *control.mutable_candidates()->mutable_candidates() = message.candidates().candidates();
    outbox_.request(key, "candidates", std::move(control), now.monotonic);
  }
  if (stream_welcomed_) outputs_.emplace_back(ToPortal{std::move(message)});
}

void GatewayAgent::send_result(const std::string& request_id, const std::string& authorisation,
                               const std::string& error) {
  if (request_id.empty() && error.empty()) return;  // nobody asked
  v1::GatewayToPortal message;
  v1::AuthorizeResult& result = *message.mutable_authorize_result();
  result.set_request_id(request_id);
  result.set_authorisation(authorisation);
  result.set_ok(error.empty());
  result.set_error(error);
  for (auto& candidate : candidates()) *result.add_candidates() = std::move(candidate);
  if (stream_welcomed_) outputs_.emplace_back(ToPortal{std::move(message)});
}

void GatewayAgent::say_goodbye(const std::string& reason) {
  for (const auto& [key, peer] : peers_) {
    if (!peer.session) continue;
    v1::Control goodbye;
    goodbye.mutable_goodbye()->set_reason(reason);
    outbox_.send(key, std::move(goodbye));
  }
}

// ---- time and outputs ----

std::optional<Output> GatewayAgent::poll_output(Now now) {
  take_name_changes(now);
  // Punches go with what sets their client up: sent beside it they may leave after that client has heard of the answer,
  // and our NAT refuses its initiation.
  std::optional<v1::Datagram> punches = punch();
  if (flush_batch(now) && punches)
    *std::get<ToDataPlane>(outputs_.back()).request.add_datagrams() = *std::exchange(punches, std::nullopt);
  while (const auto question = resolver_.poll_question()) outputs_.emplace_back(ToDns{*question});
  while (auto message = outbox_.poll()) {
    v1::PuntFromControl punt;
    punt.mutable_tunnel_control()->set_peer(std::string{as_text(message->peer)});
    punt.mutable_tunnel_control()->set_payload(std::move(message->payload));
    outputs_.emplace_back(ToPunt{std::move(punt)});
  }
  const auto send = [this](v1::Datagram datagram) {
    v1::PuntFromControl punt;
    *punt.mutable_datagram() = std::move(datagram);
    outputs_.emplace_back(ToPunt{std::move(punt)});
  };
  std::array<std::uint8_t, 64> buffer{};
  while (const auto request = gatherer_.poll_request())
    send(datagram_of(request->server, stun::build_binding_request(buffer, request->transaction)));
  if (punches) send(std::move(*punches));
  if (outputs_.empty()) return std::nullopt;
  Output out = std::move(outputs_.front());
  outputs_.pop_front();
  return out;
}

Deadline GatewayAgent::poll_timeout() const {
  Deadline out = resolver_.poll_timeout();
  const auto consider = [&](const Deadline& other) { out.consider(other.at, other.why); };
  consider(puncher_.poll_timeout());
  consider(outbox_.poll_timeout());
  if (dataplane_up_) consider(gatherer_.poll_timeout());
  if (!expiring_.empty()) out.consider(next_expiry_check_, "authorisation expiry");
  if (stream_welcomed_) out.consider(next_load_, "load report");
  return out;
}

void GatewayAgent::handle_timeout(Now now) {
  resolver_.handle_timeout(now.monotonic);
  puncher_.handle_timeout(now.monotonic);
  outbox_.handle_timeout(now.monotonic);
  if (dataplane_up_) {
    gatherer_.handle_timeout(now.monotonic);
    announce_candidates(now);
  }
  if (!expiring_.empty() && next_expiry_check_ <= now.monotonic) {
    while (!expiring_.empty() && expiring_.begin()->first <= now.wall) {
      const std::string id = expiring_.begin()->second;
      expiring_.erase(expiring_.begin());
      const auto found = authorisations_.find(id);
      // A renewed one has a later time of its own (trap flow-14).
      if (found != authorisations_.end() && found->second.expires && *found->second.expires <= now.wall)
        revoke(id, "expired", now);
    }
    next_expiry_check_ = kNever;
    if (!expiring_.empty()) {
      const WallTime next = expiring_.begin()->first;
      const std::uint64_t seconds = next.seconds - now.wall.seconds;
      const Duration left = seconds >= 60 ? kExpiryCheck
                                          : std::chrono::seconds{seconds} + std::chrono::nanoseconds{next.nanoseconds} -
                                                std::chrono::nanoseconds{now.wall.nanoseconds};
      next_expiry_check_ = now.monotonic + std::clamp<Duration>(left, 1ms, kExpiryCheck);
    }
  }
  if (stream_welcomed_ && next_load_ <= now.monotonic) {
    next_load_ = now.monotonic + kLoadInterval;
    const auto sessions = static_cast<std::uint32_t>(
        std::count_if(peers_.begin(), peers_.end(), [](const auto& entry) { return entry.second.session; }));
    if (sessions != told_load_) {
      told_load_ = sessions;
      v1::GatewayToPortal message;
      message.mutable_load()->set_peers(sessions);
      outputs_.emplace_back(ToPortal{std::move(message)});
    }
  }
}

}  // namespace penstock::gateway_agent
