#include "controlplane/core/paths/connectivity.h"

#include <algorithm>

#include "controlplane/core/paths/connectivity_impl.h"

namespace penstock::paths {

using namespace std::chrono_literals;

namespace {

// Later than this is no busy loop but a machine that slept (or a process that was stopped).
constexpr Duration kAsleep = 5s;
constexpr std::size_t kMaxHandshakePaths = 12;

// Type 1-4, three zero bytes, long enough for the shortest data message.
bool looks_like_wireguard(Bytes datagram) {
  return datagram.size() >= 32 && datagram[0] >= 1 && datagram[0] <= 4 && datagram[1] == 0 && datagram[2] == 0 &&
         datagram[3] == 0;
}

bool looks_like_punch(Bytes datagram) {
  const auto message = stun::Message::parse(datagram);
  return message && message->is(stun::Class::indication, stun::Method::binding);
}

Duration wall_since(const WallTime& from, const WallTime& to) {
  return std::chrono::seconds{static_cast<std::int64_t>(to.seconds) - static_cast<std::int64_t>(from.seconds)} +
         std::chrono::nanoseconds{static_cast<std::int64_t>(to.nanoseconds) -
                                  static_cast<std::int64_t>(from.nanoseconds)};
}

}  // namespace

Connectivity::Connectivity(const ConnectivityConfig& config, Random& random)
    : impl_(std::make_unique<Impl>(config, random)) {}
Connectivity::~Connectivity() = default;

// ---- time ----

// Every entry point comes through here. A suspended machine shows as a deadline missed by far, or, where the monotonic
// clock stops in suspend, as wall time that ran on alone (trap paths-20). A clock that steps back changes nothing.
void Connectivity::Impl::tick(Now time) {
  const Now before = now;
  now.wall = time.wall;
  now.monotonic = std::max(now.monotonic, time.monotonic);
  if (!started) {
    started = true;
    return;
  }
  const Duration slept = wall_since(before.wall, now.wall) - (now.monotonic - before.monotonic);
  if ((expected != kNever && now.monotonic - expected > kAsleep) || slept > kAsleep) resume(now);
}

void Connectivity::Impl::resume(Now time) {
  gatherer.verify(time.monotonic);
  for (auto& relay : relays) doubt(*relay);
  for (auto& [gateway, agent] : agents) agent->handle_resume(time);
}

void Connectivity::handle_resume(Now now) {
  impl_->tick(now);
  impl_->resume(impl_->now);
  impl_->pump();
}

Deadline Connectivity::Impl::poll_timeout() const {
  Deadline out = gatherer.poll_timeout();
  for (const auto& relay : relays) out.merge(relay->turn.poll_timeout());
  for (const auto& [gateway, agent] : agents) out.merge(agent->poll_timeout());
  out.merge(expected_until(), "a gateway that was not granted");
  merge_stream_deadlines(out);
  return out;
}

Deadline Connectivity::poll_timeout() const {
  return impl_->poll_timeout();
}

void Connectivity::handle_timeout(Now now) {
  impl_->tick(now);
  const Instant at = impl_->now.monotonic;
  impl_->gatherer.handle_timeout(at);
  impl_->forget_expected();
  bool suspect = false;
  for (auto& [gateway, agent] : impl_->agents) {
    agent->handle_timeout(impl_->now);
    suspect = suspect || agent->suspect();
  }
  for (auto& relay : impl_->relays) {
    if (suspect) relay->turn.suspect(at);  // limits its own rate
    relay->turn.handle_timeout(at);
  }
  impl_->pump();
}

// ---- from the shell ----

void Connectivity::handle_local_addresses(std::span<const Endpoint> sockets, std::span<const Endpoint> hosts, Now now) {
  impl_->tick(now);
  std::vector<Endpoint> new_hosts{hosts.begin(), hosts.end()};
  // A socket leads nowhere while we have no address of its family (IPv6-only networks): relays are then reached over the
  // other one. Without any address - between two networks - it stays as it was.
  const auto& known = hosts.empty() && !impl_->sockets.empty() ? impl_->sockets : new_hosts;
  std::vector<Endpoint> new_sockets;
  for (const Endpoint& socket : sockets)
    if (known.empty() || std::any_of(known.begin(), known.end(), [&](const Endpoint& e) {
          return e.address.is_v4() == socket.address.is_v4();
        }))
      new_sockets.push_back(socket);
  if (new_sockets == impl_->sockets && new_hosts == impl_->hosts) return;
  const bool roamed = !impl_->sockets.empty();
  impl_->sockets = std::move(new_sockets);
  impl_->hosts = std::move(new_hosts);
  impl_->refresh_targets();
  if (roamed) impl_->gatherer.restart(impl_->now.monotonic);
  if (roamed) impl_->drop_streams();  // connections do not move; what UDP does in the new network is seen anew
  for (auto& relay : impl_->relays) {
    if (relay->stream != 0) continue;
    const auto socket = impl_->socket_for(relay->turn.config().server);
    if (!socket) continue;
    relay->local = *socket;
    if (roamed) relay->turn.handle_local_change(impl_->now.monotonic);
  }
  impl_->refresh_relays();
  impl_->update_bases(roamed);
  impl_->pump();
}

void Connectivity::handle_relays(std::span<const RelayConfig> relays, Now now) {
  impl_->tick(now);
  impl_->configured.assign(relays.begin(), relays.end());
  impl_->refresh_targets();
  impl_->refresh_relays();
  impl_->pump();
}

void Connectivity::handle_stun_servers(std::span<const Endpoint> servers, Now now) {
  impl_->tick(now);
  impl_->stun_servers.assign(servers.begin(), servers.end());
  impl_->refresh_targets();
  impl_->pump();
}

Connectivity::Incoming Connectivity::handle_datagram(MutableBytes datagram, const Endpoint& local,
                                                     const Endpoint& remote, Now now) {
  impl_->tick(now);
  const Incoming out = impl_->classify(datagram, local, remote, impl_->now);
  if (out.reason == DropReason::none || out.reason == DropReason::local_consumed) impl_->note_udp_heard();
  if (out.reason != DropReason::none) impl_->pump();
  return out;
}

Connectivity::Incoming Connectivity::Impl::classify(MutableBytes datagram, const Endpoint& local,
                                                    const Endpoint& remote, Now time) {
  const auto at = std::find_if(relays.begin(), relays.end(), [&](const auto& relay) {
    return relay->stream == 0 && relay->turn.config().server == remote && relay->local == local;
  });
  // What a relay sends is STUN or ChannelData, whatever it looks like (trap paths-18).
  const bool is_relay = std::any_of(configured.begin(), configured.end(), [&](const RelayConfig& relay) {
    return std::find(relay.udp.begin(), relay.udp.end(), remote) != relay.udp.end();
  });
  if (!is_relay && at == relays.end() && looks_like_wireguard(datagram))
    return {DropReason::none, datagram, Path{local, remote, 0}};

  if (stun::looks_like_stun(datagram)) {
    const auto message = stun::Message::parse(datagram);
    if (!message) return {DropReason::stun_malformed, {}, {}};
    if (message->method() == stun::Method::binding) {
      if (message->message_class() == stun::Class::indication) {
        handle_punch({local, remote, 0}, time);
        return {DropReason::local_consumed, {}, {}};
      }
      if (message->message_class() == stun::Class::request) return {DropReason::stun_unexpected, {}, {}};
      return {gatherer.handle_response(*message, local, remote, time.monotonic), {}, {}};
    }
  }
  if (at != relays.end()) return from_relay(**at, datagram, time);
  return {is_relay ? DropReason::stun_unexpected : DropReason::tunnel_port_unknown, {}, {}};
}

Connectivity::Incoming Connectivity::Impl::from_relay(Relay& relay, MutableBytes datagram, Now time) {
  const auto input = relay.turn.handle_input(datagram, time.monotonic);
  if (input.reason != DropReason::none) return {input.reason, {}, {}};
  const Path path{relay.local, input.peer, relay.turn.number()};
  if (looks_like_wireguard(input.payload)) {
    const auto offset = static_cast<std::size_t>(input.payload.data() - datagram.data());
    return {DropReason::none, datagram.subspan(offset, input.payload.size()), path};
  }
  if (!looks_like_punch(input.payload)) return {DropReason::tunnel_port_unknown, {}, {}};
  handle_punch(path, time);
  return {DropReason::local_consumed, {}, {}};
}

void Connectivity::Impl::handle_punch(const Path& path, Now time) {
  for (auto& [gateway, agent] : agents) agent->handle_punch(path, time);
  for (Expected& gateway : expected_gateways) gateway.agent->handle_punch(path, time);
}

void Connectivity::handle_unreachable_hint(const Endpoint& remote, Now now) {
  impl_->tick(now);
  for (auto& [gateway, agent] : impl_->agents) agent->handle_hint(remote, 0, impl_->now);
  for (auto& relay : impl_->relays) {
    if (relay->stream != 0 || relay->turn.config().server != remote) continue;
    const std::uint32_t number = relay->turn.number();
    if (number != 0)
      for (auto& [gateway, agent] : impl_->agents) agent->handle_hint(remote, number, impl_->now);
    relay->turn.suspect(impl_->now.monotonic);
  }
  impl_->pump();
}

void Connectivity::close(Now now) {
  impl_->tick(now);
  impl_->drop_streams();
  for (auto& relay : impl_->relays) impl_->close_relay(*relay);
  impl_->relays.clear();
  impl_->configured.clear();
  impl_->update_bases(false);
  impl_->pump();
}

// ---- per gateway ----

std::unique_ptr<PathAgent> Connectivity::Impl::make_agent() {
  return std::make_unique<PathAgent>(random, config.allow_loopback, config.forbidden, config.inner_mtu);
}

void Connectivity::add_gateway(GatewayHandle gateway, Now now) {
  impl_->tick(now);
  auto& agent = impl_->agents[gateway];
  if (agent) return;
  agent = impl_->make_agent();
  impl_->update_bases(false);
  impl_->pump();
}

void Connectivity::remove_gateway(GatewayHandle gateway, Now now) {
  impl_->tick(now);
  impl_->agents.erase(gateway);
  std::erase_if(impl_->events, [&](const Event& e) {
    return e.gateway == gateway && e.kind != Event::Kind::candidates_changed && e.kind != Event::Kind::relay_refused;
  });
  impl_->refresh_permissions();
  impl_->pump();
}

void Connectivity::handle_remote_candidates(GatewayHandle gateway, std::span<const Candidate> candidates, Now now) {
  add_gateway(gateway, now);
  impl_->agents[gateway]->set_remote_candidates(candidates, impl_->now);
  impl_->hand_over_expected(*impl_->agents[gateway], candidates);
  impl_->refresh_relays();  // the family that is wanted may differ now
  impl_->pump();
}

void Connectivity::handle_session_up(GatewayHandle gateway, const Path& path, Now now) {
  add_gateway(gateway, now);
  impl_->agents[gateway]->handle_session_up(path, impl_->now);
  impl_->pump();
}

void Connectivity::handle_session_down(GatewayHandle gateway, Now now) {
  impl_->tick(now);
  const auto at = impl_->agents.find(gateway);
  if (at != impl_->agents.end()) at->second->handle_session_down(impl_->now);
  impl_->pump();
}

void Connectivity::note_received(GatewayHandle gateway, const Path& path, bool is_data, Now now) {
  impl_->tick(now);
  const auto at = impl_->agents.find(gateway);
  if (at == impl_->agents.end()) return;
  at->second->note_received(path, is_data, impl_->now);
  // Called for every packet: what it changes shows at the next deadline, unless the path is new.
  if (at->second->has_events()) impl_->pump();
}

DropReason Connectivity::handle_probe_reply(GatewayHandle gateway, Bytes payload, const Path&, Now now) {
  impl_->tick(now);
  const auto at = impl_->agents.find(gateway);
  if (at == impl_->agents.end()) return DropReason::control_not_allowed;
  const DropReason out = at->second->handle_probe_reply(payload, impl_->now);
  impl_->pump();
  return out;
}

std::vector<Path> Connectivity::handshake_paths(GatewayHandle gateway) const {
  std::vector<Path> out;
  const auto at = impl_->agents.find(gateway);
  if (at == impl_->agents.end()) return out;
  for (const Path& path : at->second->handshake_paths()) {
    if (out.size() >= kMaxHandshakePaths) break;
    const Impl::Relay* relay = impl_->find_relay(path.relay);
    if (path.relay == 0 || (relay != nullptr && relay->turn.can_send(path.remote.address, impl_->now.monotonic)))
      out.push_back(path);
  }
  return out;
}

std::span<const Path> Connectivity::data_paths(GatewayHandle gateway, Bytes sealed, Now now) {
  impl_->tick(now);
  const auto at = impl_->agents.find(gateway);
  return at == impl_->agents.end() ? std::span<const Path>{} : at->second->data_paths(sealed, impl_->now);
}

void Connectivity::wake(GatewayHandle gateway, Now now) {
  impl_->tick(now);
  const auto at = impl_->agents.find(gateway);
  if (at != impl_->agents.end()) at->second->wake(impl_->now);
}

std::optional<Path> Connectivity::primary(GatewayHandle gateway) const {
  const auto at = impl_->agents.find(gateway);
  return at == impl_->agents.end() ? std::nullopt : at->second->primary();
}

std::optional<Envelope> Connectivity::route(const Path& path, std::size_t size) {
  Envelope out;
  if (path.relay == 0) {
    out.local = path.local;
    out.remote = path.remote;
    return out;
  }
  Impl::Relay* relay = impl_->find_relay(path.relay);
  const auto wrapping = relay == nullptr ? std::nullopt : relay->turn.wrap(path.remote, size, impl_->now.monotonic);
  if (!wrapping) return std::nullopt;
  out.local = relay->local;
  out.remote = relay->turn.config().server;
  out.stream = relay->stream;
  out.prefix = wrapping->prefix;
  out.prefix_size = wrapping->prefix_size;
  out.padding = wrapping->padding;
  return out;
}

std::optional<Transmit> Connectivity::wrap(const Path& path, Bytes datagram) {
  const auto envelope = route(path, datagram.size());
  if (!envelope) return std::nullopt;
  Transmit out{{}, envelope->local, envelope->remote, envelope->stream};
  out.bytes.reserve(envelope->prefix_size + datagram.size() + envelope->padding);
  const Bytes prefix = envelope->prefix_bytes();
  out.bytes.assign(prefix.begin(), prefix.end());
  out.bytes.insert(out.bytes.end(), datagram.begin(), datagram.end());
  out.bytes.resize(out.bytes.size() + envelope->padding);
  return out;
}

std::size_t Connectivity::overhead(GatewayHandle gateway) const {
  const auto at = impl_->agents.find(gateway);
  if (at == impl_->agents.end()) return 0;
  std::size_t out = 0;
  for (const auto& path : {at->second->primary(), at->second->standby()}) {
    const Impl::Relay* relay = path ? impl_->find_relay(path->relay) : nullptr;
    if (relay != nullptr) out = std::max(out, relay->turn.overhead(path->remote));
  }
  return out;
}

std::vector<PathInfo> Connectivity::show(GatewayHandle gateway) const {
  const auto at = impl_->agents.find(gateway);
  return at == impl_->agents.end() ? std::vector<PathInfo>{} : at->second->show();
}

std::optional<PathSwitch> Connectivity::last_switch(GatewayHandle gateway) const {
  const auto at = impl_->agents.find(gateway);
  return at == impl_->agents.end() ? std::nullopt : at->second->last_switch();
}

std::vector<Candidate> Connectivity::local_candidates() const {
  return impl_->local_candidates();
}

std::optional<Transmit> Connectivity::poll_transmit() {
  if (impl_->output.empty()) return std::nullopt;
  Transmit out = std::move(impl_->output.front());
  impl_->output.pop_front();
  return out;
}

std::optional<Event> Connectivity::poll_event() {
  if (impl_->events.empty()) return std::nullopt;
  Event out = std::move(impl_->events.front());
  impl_->events.pop_front();
  return out;
}

}  // namespace penstock::paths
