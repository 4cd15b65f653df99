// ClientAgent: after every input, what each part has for the others goes to them until nothing moves.
#include <algorithm>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"

namespace penstock::client {

void ClientAgent::Impl::settle(Now now) {
  ++turn;
  // Each part's output may be another's input; a few rounds suffice, and the bound keeps a mistake from spinning.
  for (int round = 0; round < 8; ++round) {
    flush_batch(now);
    settle_resolver(now);
    settle_device(now);
    const bool moved = settle_paths(now);
    flush_batch(now);
    if (!moved && batch.link == nullptr) break;
  }
  send_requests(now);
  while (const auto released = names->poll_released()) {
    // Its addresses may stand for another name one day: nothing remembers this one.
    changed();
    for (const auto& [id, state] : states) {
      const auto target = state->targets.find(released->name);
      if (target == state->targets.end()) continue;
      reject_waiting(*target->second, Undeliverable::unreachable, DropReason::name_unknown, now);
      state->targets.erase(target);
    }
  }
}

void ClientAgent::Impl::settle_device(Now now) {
  while (const auto what = device.poll_event()) {
    Link* link = link_by_peer(what->peer);
    if (link == nullptr) continue;
    switch (what->type) {
      case wireguard::EventType::session_up:
        log_info("tunnel to gateway " + link->gateway + " is up (" + what->path.to_string() + ")");
        session_up(*link, what->path, now);
        break;
      case wireguard::EventType::session_renewed:
        if (link->heals) connectivity.note_received(link->peer, what->path, false, now);
        link->heard_at = now.monotonic;
        if (link->silent) link_alive(*link, now);
        break;
      case wireguard::EventType::session_down:
        session_down(*link, now);
        break;
      case wireguard::EventType::handshake_failed:
        log_warning("gateway " + link->gateway + " does not answer");
        link_lost(*link, now);
        break;
      case wireguard::EventType::endpoint_changed:
        break;
    }
  }
  if (device.last_timestamp() != seen_timestamp) {
    seen_timestamp = device.last_timestamp();
    event(AgentEvent::timestamp_used);
  }
  while (auto datagram = device.poll_output()) {
    if (datagram->path.relay != 0) {
      auto wrapped = connectivity.wrap(datagram->path, datagram->bytes);
      if (!wrapped) {
        drop(DropReason::wg_no_endpoint);
        continue;
      }
      const std::size_t size = wrapped->bytes.size();
      datagrams.push_back({std::move(wrapped->bytes), 0, size, wrapped->local, wrapped->remote, wrapped->stream});
      continue;
    }
    const std::size_t size = datagram->bytes.size();
    datagrams.push_back({std::move(datagram->bytes), 0, size, datagram->path.local, datagram->path.remote});
  }
}

void ClientAgent::Impl::drain_transmits() {
  while (auto transmit = connectivity.poll_transmit()) {
    const std::size_t size = transmit->bytes.size();
    datagrams.push_back({std::move(transmit->bytes), 0, size, transmit->local, transmit->remote, transmit->stream});
  }
}

void ClientAgent::Impl::handshake_paths_changed(Link& link, Now now) {
  const std::vector<Path> usable = connectivity.handshake_paths(link.peer);
  device.set_handshake_paths(link.peer, usable, now);
  std::set<std::uint32_t> relays;
  for (const Path& path : usable)
    if (path.relay != 0) relays.insert(path.relay);
  const bool opened = !std::includes(link.relays.begin(), link.relays.end(), relays.begin(), relays.end());
  link.relays = std::move(relays);
  if (link.session || link.retry_at == kNever) return;
  device.want_session(link.peer, now);
  // Punches that came before a relay had our permission were lost there, and it may take one to tell us by which port
  // the gateway's NAT lets us in: another now, if the first answer was a new nonce, rather than when the gateway would
  // have sent its next.
  if (opened && link.managed && portal_ready) tell_portal(link, connectivity.local_candidates());
}

bool ClientAgent::Impl::settle_paths(Now now) {
  using Kind = paths::Event::Kind;
  drain_transmits();
  bool moved = false;
  while (auto what = connectivity.poll_event()) {
    moved = true;
    Link* link = link_by_peer(what->gateway);
    switch (what->kind) {
      case Kind::candidates_changed:
        send_candidates(now);
        continue;
      case Kind::relay_refused:
        // Fresh credentials come with the next Welcome.
        log_warning("a relay refuses our credentials");
        event(AgentEvent::portal_suspect);
        continue;
      default:
        break;
    }
    if (link == nullptr) continue;
    switch (what->kind) {
      case Kind::send_probe:
        if (what->report)
          wireguard::write_report(MutableBytes{what->probe}.last(wireguard::kReportSize),
                                  device.data_path().reception(link->peer, now.monotonic));
        send_inner(*link, what->probe, &what->path, now);
        break;
      case Kind::path_changed:
        log_info("gateway " + link->gateway + ": path is now " + what->path.to_string() + " (" +
                 std::string(what->why) + ")");
        device.set_endpoint(link->peer, what->path, now);
        link->control.way_changed(now.monotonic);
        send_control(*link, now);
        if (link->silent) link_alive(*link, now);
        break;
      case Kind::handshake_paths:
        handshake_paths_changed(*link, now);
        break;
      case Kind::punched:
        device.path_opened(link->peer, what->path, now);
        break;
      case Kind::suspect:
        event(AgentEvent::portal_suspect);
        break;
      case Kind::stalled:
        device.want_session(link->peer, now);
        // Asking again makes the gateway punch, and brings its candidates of today.
        for (ResourceState* state : link->resources)
          if (in_use(*state, now)) state->access.unreachable(now);
        event(AgentEvent::portal_suspect);
        break;
      case Kind::unreachable:
        log_warning("gateway " + link->gateway + " cannot be reached over any path");
        link->silent = true;
        link_lost(*link, now);
        event(AgentEvent::portal_suspect);
        break;
      case Kind::candidates_changed:
      case Kind::relay_refused:
        break;
    }
    drain_transmits();
  }
  return moved;
}

void ClientAgent::Impl::settle_resolver(Now now) {
  while (auto output = resolver->poll_output()) {
    if (auto* query = std::get_if<dns::GatewayQuery>(&*output)) {
      if (resources.find(query->resource) == nullptr) {
        resolver->handle_gateway_failed(query->id, now);
        continue;
      }
      ResourceState& state = state_of(query->resource);
      if (state.queries.size() >= kMaxWaitingQueries) {
        resolver->handle_gateway_failed(query->id, now);
        continue;
      }
      state.queries.push_back(std::move(*query));
      serve(state, now);
    } else if (auto* answer = std::get_if<dns::Answer>(&*output)) {
      dns_outputs.emplace_back(std::move(*answer));
    } else if (auto* send = std::get_if<dns::UpstreamSend>(&*output)) {
      dns_outputs.emplace_back(std::move(*send));
    } else if (auto* close = std::get_if<dns::UpstreamClose>(&*output)) {
      dns_outputs.emplace_back(*close);
    }
  }
}

}  // namespace penstock::client
