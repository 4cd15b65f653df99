// Connectivity: from the parts' events to ours.
#include <algorithm>
#include <utility>

#include "controlplane/core/paths/connectivity_impl.h"

namespace penstock::paths {

void Connectivity::Impl::send_from(Relay& relay) {
  while (auto bytes = relay.turn.poll_output()) {
    if (relay.stream == 0) note_udp_asked();
    output.push_back({std::move(*bytes), relay.local, relay.turn.config().server, relay.stream});
  }
}

void Connectivity::Impl::pump() {
  choose_near_relays();
  // Each round may give another part something to say; a bound keeps a mistake from becoming a hang.
  for (int round = 0; round < 16; ++round) {
    const bool relays_spoke = pump_relays();
    const bool gatherer_spoke = pump_gatherer();
    const bool agents_spoke = pump_agents();
    if (!relays_spoke && !gatherer_spoke && !agents_spoke) break;
  }
  auto pace = StunGatherer::Pace::idle;
  for (const auto& [gateway, agent] : agents) {
    const auto mode = agent->mode(now.monotonic);
    if (mode == PathAgent::Mode::busy) pace = StunGatherer::Pace::busy;
    if (mode == PathAgent::Mode::active && pace == StunGatherer::Pace::idle) pace = StunGatherer::Pace::active;
  }
  gatherer.set_pace(pace, now.monotonic);
  pump_gatherer();
  run_streams();
  for (auto& relay : relays) send_from(*relay);
  expected = poll_timeout().at;

  std::vector<Candidate> mine = local_candidates();
  if (mine == told) return;
  told = std::move(mine);
  const bool waiting = std::any_of(events.begin(), events.end(),
                                   [](const Event& e) { return e.kind == Event::Kind::candidates_changed; });
  if (waiting) return;
  Event out;
  out.kind = Event::Kind::candidates_changed;
  events.push_back(std::move(out));
}

bool Connectivity::Impl::pump_gatherer() {
  bool any = false;
  while (auto transmit = gatherer.poll_transmit()) {
    note_udp_asked();
    output.push_back(std::move(*transmit));
  }
  while (const auto server = gatherer.poll_returned())
    for (auto& relay : relays)
      if (relay->turn.config().server == *server && relay->stream == 0) {
        any = true;
        relay->turn.handle_returned(now.monotonic);
      }
  while (const auto moved = gatherer.poll_moved()) {
    any = true;
    // The mapping towards the other relays and gateways has probably moved as well.
    for (auto& relay : relays) {
      if (relay->local != moved->local || relay->stream != 0) continue;
      if (relay->turn.config().server == moved->server)
        relay->turn.handle_mapped(moved->mapped, now.monotonic);
      else
        relay->turn.suspect(now.monotonic);
      send_from(*relay);  // before the copies of what is in doubt, which the relay would not take from where we are now
    }
    for (auto& [gateway, agent] : agents) agent->verify(now);
  }
  return any;
}

bool Connectivity::Impl::pump_agents() {
  bool any = false;
  for (auto& [gateway, agent] : agents) {
    while (auto event = agent->poll_event()) {
      any = true;
      pump_agent_event(gateway, std::move(*event));
    }
  }
  // What those that are only expected say is nobody's yet; where they punch from may need a permission.
  for (Expected& gateway : expected_gateways)
    while (gateway.agent->poll_event()) any = true;
  if (any) refresh_permissions();
  return any;
}

void Connectivity::Impl::pump_agent_event(GatewayHandle gateway, AgentEvent event) {
  Event out;
  out.gateway = gateway;
  out.path = event.path;
  out.why = event.why;
  switch (event.kind) {
    case AgentEvent::Kind::send_probe:
      out.kind = Event::Kind::send_probe;
      out.probe = std::move(event.bytes);
      out.report = event.report;
      break;
    case AgentEvent::Kind::resend: {
      Relay* relay = find_relay(event.path.relay);
      if (event.path.relay == 0) {
        output.push_back({std::move(event.bytes), event.path.local, event.path.remote});
      } else if (relay != nullptr) {
        if (const auto wrapping = relay->turn.wrap(event.path.remote, event.bytes.size(), now.monotonic)) {
          event.bytes.insert(event.bytes.begin(), wrapping->prefix.begin(),
                             wrapping->prefix.begin() + wrapping->prefix_size);
          event.bytes.resize(event.bytes.size() + wrapping->padding);
          output.push_back({std::move(event.bytes), relay->local, relay->turn.config().server, relay->stream});
        }
      }
      return;
    }
    case AgentEvent::Kind::path_changed:
      out.kind = Event::Kind::path_changed;
      break;
    case AgentEvent::Kind::path_list: {
      out.kind = Event::Kind::handshake_paths;
      out.path = {};
      const bool waiting = std::any_of(events.begin(), events.end(), [&](const Event& e) {
        return e.kind == Event::Kind::handshake_paths && e.gateway == gateway;
      });
      if (waiting) return;
      break;
    }
    case AgentEvent::Kind::punched:
      out.kind = Event::Kind::punched;
      break;
    case AgentEvent::Kind::path_alive:
      if (Relay* relay = find_relay(event.path.relay)) relay->turn.bind_channel(event.path.remote, now.monotonic);
      return;
    case AgentEvent::Kind::path_silent:
      if (Relay* relay = find_relay(event.path.relay)) doubt(*relay);
      return;
    case AgentEvent::Kind::suspect:
      gatherer.verify(now.monotonic);
      for (auto& relay : relays) doubt(*relay);
      out.kind = Event::Kind::suspect;
      break;
    case AgentEvent::Kind::stalled:
      out.kind = Event::Kind::stalled;
      break;
    case AgentEvent::Kind::unreachable:
      out.kind = Event::Kind::unreachable;
      break;
  }
  events.push_back(std::move(out));
}

}  // namespace penstock::paths
