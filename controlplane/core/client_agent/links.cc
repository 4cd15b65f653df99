// Tunnels to gateways: their life from a grant to the last Resource that needs them, and what is said inside.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"
#include "controlplane/core/client_agent/candidates.h"
#include "controlplane/core/convert.h"

namespace penstock::client {
namespace {

constexpr std::string_view kNameKey = "name:";
constexpr std::string_view kQueryKey = "dns:";
constexpr std::string_view kCandidatesKey = "candidates";

std::string name_key(const Target& target) {
  // A Resource's id may hold anything; a name holds no slash.
  return std::string(kNameKey) + target.name + "/" + target.state->id;
}

}  // namespace

Link* ClientAgent::Impl::link_for_grant(const v1::ConnectionGranted& message, Now now) {
  const auto key = wireguard::PublicKey::from_bytes(Bytes{
      reinterpret_cast<const std::uint8_t*>(message.gateway_public_key().data()), message.gateway_public_key().size()});
  if (!key || key->is_zero() || message.gateway().empty()) return nullptr;
  wireguard::PeerConfig peer;
  peer.public_key = *key;
  peer.path_switch = !eager();
  peer.pinned_endpoint = eager();
  if (!message.preshared_key().empty()) {
    const auto psk = wireguard::PresharedKey::from_bytes(
        Bytes{reinterpret_cast<const std::uint8_t*>(message.preshared_key().data()), message.preshared_key().size()});
    if (!psk) return nullptr;
    peer.preshared_key = *psk;
  }
  const auto candidates = read_candidates(message.candidates());
  for (const paths::Candidate& candidate : candidates) peer.endpoints.push_back(candidate.endpoint);

  // The same key under another gateway's id, or another key under this id: the old tunnel is no longer what it was.
  if (const auto known = device.find_peer(*key)) {
    Link* other = link_by_peer(*known);
    if (other != nullptr && other->gateway != message.gateway()) remove_link(*other, now);
  }
  if (const auto found = links.find(message.gateway());
      found != links.end() && found->second->config.public_key != *key)
    remove_link(*found->second, now);

  auto& slot = links[message.gateway()];
  if (!slot) {
    const auto added = device.add_peer(peer, now);
    if (added.error != wireguard::PeerError::none) {
      log_warning("gateway " + message.gateway() + ": " + std::string(text_of(added.error)));
      links.erase(message.gateway());
      return nullptr;
    }
    slot = std::make_unique<Link>(message.gateway(), random);
    slot->peer = added.peer;
    slot->heals = !eager();
    if (link_of_peer.size() <= added.peer) link_of_peer.resize(added.peer + 1);
    link_of_peer[added.peer] = slot.get();
    connectivity.add_gateway(added.peer, now);
  } else if (slot->config != peer) {
    device.update_peer(slot->peer, peer, now);
  }
  slot->config = peer;
  slot->unreachable = false;
  // Also when they are the same: checks of paths that were not proved begin anew.
  connectivity.handle_remote_candidates(slot->peer, candidates, now);
  device.set_handshake_paths(slot->peer, connectivity.handshake_paths(slot->peer), now);
  interface_changed();
  return slot.get();
}

void ClientAgent::Impl::attach(ResourceState& state, Link& link, Now now) {
  if (state.link == &link) return;
  detach(state, now);
  state.link = &link;
  state.ask_again = {};
  state.asking.reset();
  link.resources.insert(&state);
}

void ClientAgent::Impl::detach(ResourceState& state, Now now) {
  Link* link = std::exchange(state.link, nullptr);
  if (link == nullptr) return;
  for (const auto& [name, target] : state.targets) {
    target->announced = nullptr;
    link->control.cancel(name_key(*target));
  }
  link->resources.erase(&state);
  changed();
  if (link->resources.empty() && link->managed) remove_link(*link, now);
}

void ClientAgent::Impl::remove_link(Link& link, Now now) {
  flush_batch(now);
  const std::vector<ResourceState*> users(link.resources.begin(), link.resources.end());
  link.resources.clear();
  for (ResourceState* state : users) {
    state->link = nullptr;
    state->access.revoked();
    for (const auto& [name, target] : state->targets) target->announced = nullptr;
  }
  connectivity.remove_gateway(link.peer, now);
  device.remove_peer(link.peer, now);
  link_of_peer[link.peer] = nullptr;
  changed();
  const std::string gateway = link.gateway;
  links.erase(gateway);
  interface_changed();
}

void ClientAgent::Impl::want_session(Link& link, Now now) {
  device.want_session(link.peer, now);
  if (link.managed && link.retry_at == kNever) link.retry_at = now.monotonic + link.retry.next(random);
}

void ClientAgent::Impl::session_up(Link& link, const Path& path, Now now) {
  link.session = true;
  if (link.heals) {
    connectivity.handle_session_up(link.peer, path, now);
    // The probe that says where we are goes before the first data: a gateway with a live session of our former life
    // would answer that one to where we were.
    settle_paths(now);
  }
  link.heard_at = link.check_at = now.monotonic;
  link.control.session_up(now.monotonic);
  link_alive(link, now);
}

void ClientAgent::Impl::link_alive(Link& link, Now now) {
  link.silent = link.unreachable = false;
  link.retry_at = kNever;
  link.retries = 0;
  link.retry.reset();
  send_control(link, now);
  const std::vector<ResourceState*> users(link.resources.begin(), link.resources.end());
  for (ResourceState* state : users) {
    state->ask_again = {};
    state->asking.reset();
    serve(*state, now);
  }
}

void ClientAgent::Impl::session_down(Link& link, Now now) {
  if (!link.session) return;
  link.session = false;
  link.control.session_down();
  if (link.heals) connectivity.handle_session_down(link.peer, now);
}

// The gateway does not answer (any more): what waits for it is asked of the portal again.
void ClientAgent::Impl::link_lost(Link& link, Now now) {
  link.unreachable = true;
  for (ResourceState* state : link.resources)
    if (state->anything_waits()) ask_for_another(*state, now);
}

bool ClientAgent::Impl::in_use(const ResourceState& state, Now now) const {
  return state.anything_waits() || std::any_of(state.targets.begin(), state.targets.end(), [&](const auto& entry) {
           return entry.second->used_at + Access::kInUse >= now.monotonic;
         });
}

// The portal is told which gateway does not answer and may choose another; at once, then with back-off.
void ClientAgent::Impl::ask_for_another(ResourceState& state, Now now, bool insist) {
  if (now.monotonic < state.ask_again) return;
  const bool news = state.ask_again == Instant{};  // for the first time since a gateway was alive
  state.ask_again = now.monotonic + state.asking.next(random);
  if (news)
    state.access.newly_unreachable(now, insist);
  else
    state.access.unreachable(now, insist);
}

// The gateway is going away: what is in use moves before it does, the rest asks when it is wanted.
void ClientAgent::Impl::leave_link(Link& link, Now now) {
  link.unreachable = true;
  const std::vector<ResourceState*> users(link.resources.begin(), link.resources.end());
  for (ResourceState* state : users)
    if (in_use(*state, now)) ask_for_another(*state, now, true);
  // The link may end with its last user.
  for (ResourceState* state : users)
    if (!in_use(*state, now)) revoke(*state, now);
}

void ClientAgent::Impl::handle_link_timeout(Link& link, Now now) {
  if (now.monotonic < link.retry_at) return;
  const bool wanted = std::any_of(link.resources.begin(), link.resources.end(),
                                  [](const ResourceState* state) { return state->anything_waits(); });
  if (!wanted || link.ready()) {
    link.retry_at = kNever;
    return;
  }
  // Asking again repairs a gateway that has forgotten us, and brings its candidates of today. When that did not help,
  // the gateway is named unreachable, so that the portal may choose another.
  if (++link.retries >= 2) link.unreachable = true;
  for (ResourceState* state : link.resources)
    if (state->anything_waits()) state->access.unreachable(now);
  device.want_session(link.peer, now);
  link.retry_at = now.monotonic + link.retry.next(random);
}

void ClientAgent::Impl::announce(Link& link, Target& target, Now now) {
  const std::string key = name_key(target);
  if (link.control.pending(key)) return;
  const dns::ProxyAddresses* addresses = names->find(target.name);
  if (addresses == nullptr) return reject_waiting(target, Undeliverable::unreachable, DropReason::name_unknown, now);
  v1::Control message;
  v1::ResolveName& resolve = *message.mutable_resolve_name();
  resolve.set_resource(target.state->id);
  resolve.set_name(target.name);
  resolve.set_proxy_v4(to_wire(addresses->v4));
  resolve.set_proxy_v6(to_wire(addresses->v6));
  link.control.request(key, std::move(message), now.monotonic, kNameGiveUp);
  connectivity.wake(link.peer, now);
  send_control(link, now);
}

void ClientAgent::Impl::ask_gateway(Link& link, const dns::GatewayQuery& query, Now now) {
  v1::Control message;
  message.mutable_dns_query()->set_resource(query.resource);
  message.mutable_dns_query()->set_message(std::string(query.message.begin(), query.message.end()));
  if (!link.managed || !link.control.request(std::string(kQueryKey) + std::to_string(query.id), std::move(message),
                                             now.monotonic, kQueryGiveUp))
    return resolver->handle_gateway_failed(query.id, now);
  connectivity.wake(link.peer, now);
  send_control(link, now);
}

void ClientAgent::Impl::send_control(Link& link, Now now) {
  while (auto packet = link.control.poll_packet()) send_inner(link, *packet, nullptr, now);
}

void ClientAgent::Impl::send_candidates(Now now) {
  const auto candidates = connectivity.local_candidates();
  for (const auto& [gateway, link] : links)
    if (link->managed) send_candidates(*link, candidates, now);
}

void ClientAgent::Impl::send_candidates(Link& link, const std::vector<paths::Candidate>& candidates, Now now) {
  if (portal_ready) tell_portal(link, candidates);
  v1::Control control;
  write_candidates(candidates, control.mutable_candidates()->mutable_candidates());
  link.control.cancel(std::string(kCandidatesKey));  // an older list is of no use any more
  link.control.request(std::string(kCandidatesKey), std::move(control), now.monotonic, kNameGiveUp);
  if (link.session) send_control(link, now);
}

void ClientAgent::Impl::tell_portal(const Link& link, const std::vector<paths::Candidate>& candidates) {
  v1::ClientToPortal message;
  message.mutable_candidate_update()->set_gateway(link.gateway);
  write_candidates(candidates, message.mutable_candidate_update()->mutable_candidates());
  to_portal.push_back(std::move(message));
}

void ClientAgent::Impl::handle_control_reply(Link& link, const ControlChannel::Reply& reply, Now now) {
  if (reply.key.starts_with(kNameKey)) {
    if (reply.message.has_name_status()) handle_name_status(link, reply.message.name_status(), now);
    return;
  }
  if (!reply.key.starts_with(kQueryKey)) return;
  const std::uint64_t id = std::stoull(reply.key.substr(kQueryKey.size()));
  if (!reply.message.has_dns_answer()) return resolver->handle_gateway_failed(id, now);
  const std::string& message = reply.message.dns_answer().message();
  resolver->handle_gateway_answer(id, Bytes{reinterpret_cast<const std::uint8_t*>(message.data()), message.size()},
                                  now);
}

void ClientAgent::Impl::handle_given_up(Link& link, const std::string& key, Now now) {
  if (key.starts_with(kQueryKey))
    return resolver->handle_gateway_failed(std::stoull(key.substr(kQueryKey.size())), now);
  if (!key.starts_with(kNameKey)) return;
  for (ResourceState* state : link.resources)
    for (const auto& [name, target] : state->targets)
      if (name_key(*target) == key) {
        settle_asked(*target, now);
        reject_waiting(*target, Undeliverable::unreachable, DropReason::name_wait_timeout, now);
      }
}

}  // namespace penstock::client
