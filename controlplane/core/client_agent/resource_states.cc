// Resources in use: what waits for them, and what becomes of it.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"

namespace penstock::client {

ResourceState& ClientAgent::Impl::state_of(const std::string& resource) {
  auto& slot = states[resource];
  if (!slot) {
    slot = std::make_unique<ResourceState>(resource, random);
    if (is_static) {
      slot->access.granted(std::string(kStaticGateway), WallTime{}, Now{});
      Link& link = *links.begin()->second;
      slot->link = &link;
      link.resources.insert(slot.get());
    }
  }
  return *slot;
}

Target& ClientAgent::Impl::target_in(ResourceState& state, const std::string& name) {
  auto& slot = state.targets[name];
  if (!slot) slot = std::make_unique<Target>(state, name, budget);
  return *slot;
}

void ClientAgent::Impl::serve_all(Now now) {
  for (const auto& [id, state] : states) serve(*state, now);
}

void ClientAgent::Impl::serve(ResourceState& state, Now now) {
  if (!state.anything_waits()) return state.access.unwant();
  if (!state.access.usable(now.wall)) {
    if (state.access.refusal_stands(now.monotonic)) {
      fail_queries(state, now);
      fail_asked(state, now);
      return reject_waiting(
          state, state.access.refusal() == Refusal::forbidden ? Undeliverable::prohibited : Undeliverable::unreachable,
          DropReason::policy_refused, now);
    }
    if (portal_down_since == Instant::min()) portal_down_since = now.monotonic;  // never up yet
    if (!portal_up && now.monotonic >= portal_down_since + kPortalGrace) {
      fail_queries(state, now);
      fail_asked(state, now);
      reject_waiting(state, Undeliverable::unreachable, DropReason::portal_away, now);
      return state.access.unwant();
    }
    return state.access.want(now);
  }
  if (state.link == nullptr) return;
  Link& link = *state.link;
  if (!link.ready()) {
    if (link.silent) ask_for_another(state, now);
    return want_session(link, now);
  }
  for (const dns::GatewayQuery& query : std::exchange(state.queries, {})) ask_gateway(link, query, now);
  if (!state.asked.empty()) serve_asked(state, now);
  const std::vector<Target*> waiting(state.waiting.begin(), state.waiting.end());
  for (Target* target : waiting) flush(*target, now);
}

void ClientAgent::Impl::flush(Target& target, Now now) {
  if (target.queue.empty()) return;
  ResourceState& state = *target.state;
  if (state.link == nullptr || !state.link->ready() || !state.access.usable(now.wall)) return;
  Link& link = *state.link;
  if (!target.name.empty() && link.managed) {
    const bool bad = target.status == Target::Name::missing || target.status == Target::Name::forbidden ||
                     target.status == Target::Name::failed;
    if (bad && now.monotonic >= target.status_until) target.announced = nullptr;
    if (target.announced != &link) {
      target.status = Target::Name::unknown;
      target.status_until = kNever;
      return announce(link, target, now);
    }
    if (bad) return;
  }
  state.waiting.erase(&target);
  for (const QueuedPacket& packet : target.queue.take_all()) add_to_batch(link, &target, packet.bytes, now);
}

void ClientAgent::Impl::reject_waiting(Target& target, Undeliverable why, DropReason reason, Now now) {
  target.state->waiting.erase(&target);
  for (const QueuedPacket& packet : target.queue.take_all()) reject(packet.bytes, why, reason, now);
}

void ClientAgent::Impl::reject_waiting(ResourceState& state, Undeliverable why, DropReason reason, Now now) {
  const std::vector<Target*> waiting(state.waiting.begin(), state.waiting.end());
  for (Target* target : waiting) reject_waiting(*target, why, reason, now);
}

void ClientAgent::Impl::fail_queries(ResourceState& state, Now now) {
  for (const dns::GatewayQuery& query : std::exchange(state.queries, {}))
    resolver->handle_gateway_failed(query.id, now);
}

void ClientAgent::Impl::revoke(ResourceState& state, Now now) {
  state.access.revoked();
  detach(state, now);
  changed();
}

void ClientAgent::Impl::forget_state(const std::string& resource, DropReason reason, Now now) {
  const auto found = states.find(resource);
  if (found == states.end()) return;
  changed();
  ResourceState& state = *found->second;
  fail_queries(state, now);
  fail_asked(state, now);
  reject_waiting(state, Undeliverable::prohibited, reason, now);
  detach(state, now);
  states.erase(found);
}

}  // namespace penstock::client
