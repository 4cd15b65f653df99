#include "controlplane/core/client_agent/client_agent.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "controlplane/core/client_agent/agent_impl.h"

namespace penstock::client {
namespace {

constexpr std::size_t kSpareBuffers = 1024;
constexpr std::size_t kMaxLogLines = 1000;

wireguard::DeviceConfig device_config(const ClientAgentConfig& config) {
  wireguard::DeviceConfig out;
  out.private_key = config.private_key;
  out.max_peers = 256;
  out.mtu = config.mtu;
  out.last_timestamp = config.last_timestamp;
  out.aead = config.aead;
  return out;
}

// Without mobility a relayed address dies with the mapping it was made from: 1.0 repairs nothing.
paths::ConnectivityConfig paths_config(const ClientAgentConfig& config) {
  paths::ConnectivityConfig out = config.paths;
  out.inner_mtu = config.mtu;
  if (config.protocol < ProtocolVersion{1, 1}) out.mobility = false;
  return out;
}

IpAddress sentinel(const dns::StubResolverConfig& config, bool v6) {
  for (const IpAddress& address : config.sentinels)
    if (address.is_v6() == v6) return address;
  return {};
}

}  // namespace

ClientAgent::Impl::Impl(ClientAgentConfig agent_config, Random& source)
    : config(std::move(agent_config)),
      random(source),
      names(std::make_unique<dns::NameMap>(config.names, source)),
      resolver(std::make_unique<dns::StubResolver>(config.resolver, *names, source)),
      device(device_config(config), source),
      connectivity(paths_config(config), source) {
  interface.mtu = config.mtu;
  interface.resolver_v4 = sentinel(config.resolver, false);
  interface.resolver_v6 = sentinel(config.resolver, true);
  seen_timestamp = device.last_timestamp();
  interface_changed();
}

ClientAgent::ClientAgent(ClientAgentConfig config, Random& random)
    : impl_(std::make_unique<Impl>(std::move(config), random)) {}
ClientAgent::~ClientAgent() = default;

void ClientAgent::use_static_gateway(const StaticGateway& gateway, Now now) {
  Impl& d = *impl_;
  wireguard::PeerConfig peer;
  peer.public_key = gateway.public_key;
  peer.preshared_key = gateway.preshared_key;
  peer.persistent_keepalive_s = kPersistentKeepalive;
  peer.endpoints = gateway.endpoints;
  const auto added = d.device.add_peer(peer, now);
  if (added.error != wireguard::PeerError::none) return d.log_warning("gateway: " + std::string(text_of(added.error)));
  auto link = std::make_unique<Link>(std::string(kStaticGateway), d.random);
  link->managed = link->heals = false;
  link->peer = added.peer;
  link->config = peer;
  d.link_of_peer.resize(added.peer + 1);
  d.link_of_peer[added.peer] = link.get();
  d.links[link->gateway] = std::move(link);
  d.is_static = d.ever_welcomed = true;
  d.interface.tunnel_v4 = gateway.tunnel_v4;
  d.interface.tunnel_v6 = gateway.tunnel_v6;
  for (const Resource& resource : gateway.resources) d.resources.upsert(resource);
  d.resources_changed(now);
  d.settle(now);
}

void ClientAgent::handle_local_addresses(std::span<const Endpoint> sockets, std::span<const Endpoint> hosts, Now now) {
  Impl& d = *impl_;
  d.connectivity.handle_local_addresses(sockets, hosts, now);
  d.resolver->handle_network_change(now);
  d.settle(now);
}

void ClientAgent::handle_packets(std::span<const Bytes> packets, Now now) {
  Impl& d = *impl_;
  for (const Bytes packet : packets) d.handle_packet(packet, now);
  d.settle(now);
}

void ClientAgent::handle_packets(std::span<const TunPacket> packets, Now now) {
  Impl& d = *impl_;
  for (const TunPacket& packet : packets) {
    if (packet.vnet.plain())
      d.handle_packet(packet.bytes, now);
    else
      d.handle_super_packet(packet, now);
  }
  d.settle(now);
}

Bytes ClientAgent::handle_query(Bytes message, const dns::Client& client, Now now) {
  Impl& d = *impl_;
  if (d.eager() && d.hold_query(message, client, now)) {
    d.settle(now);
    return {};
  }
  const Bytes answer = d.resolver->handle_query(message, client, now);
  if (!answer.empty()) return answer;  // nothing else has happened
  d.settle(now);
  return {};
}

void ClientAgent::handle_upstream(std::uint64_t exchange, const Endpoint& from, Bytes message, Now now) {
  impl_->resolver->handle_upstream(exchange, from, message, now);
  impl_->settle(now);
}

void ClientAgent::handle_upstream_failed(std::uint64_t exchange, Now now) {
  impl_->resolver->handle_upstream_failed(exchange, now);
  impl_->settle(now);
}

void ClientAgent::set_upstreams(std::vector<Endpoint> upstreams, Now now) {
  impl_->resolver->set_upstreams(std::move(upstreams), now);
  impl_->settle(now);
}

dns::NameMap& ClientAgent::names() {
  return *impl_->names;
}
const dns::StubResolver& ClientAgent::resolver() const {
  return *impl_->resolver;
}

// ---- time -----------------------------------------------------------------------------------------------------------

paths::Deadline ClientAgent::poll_timeout(Now now) const {
  return impl_->next_deadline(now);
}

paths::Deadline ClientAgent::Impl::next_deadline(Now now) const {
  paths::Deadline out;
  const auto device_deadline = device.poll_timeout();
  out.merge(device_deadline.at, wireguard::text_of(device_deadline.why));
  out.merge(connectivity.poll_timeout());
  const auto resolver_deadline = resolver->poll_timeout();
  out.merge(resolver_deadline.at, resolver_deadline.why);
  for (const auto& [id, state] : states) {
    out.merge(state->access.next_deadline(now, portal_ready), "authorisation");
    if (!portal_up && state->anything_waits() && !state->access.usable(now.wall))
      out.merge(portal_down_since + kPortalGrace, "portal away");
    for (const Target* target : state->waiting) out.merge(target->queue.oldest() + kQueueAge, "waiting packets");
  }
  for (const auto& [gateway, link] : links) {
    out.merge(link->retry_at, "gateway silent");
    out.merge(link->control.next_deadline(), "in-tunnel request");
  }
  if (eager()) out.merge(eager_deadline(), "eager tunnel");
  out.merge(welcome_due, "the portal's welcome");
  if (!states.empty()) out.merge(next_sweep, "sweep");
  return out;
}

void ClientAgent::handle_timeout(Now now) {
  Impl& d = *impl_;
  if (d.device.poll_timeout().at <= now.monotonic) d.device.handle_timeout(now);
  if (d.connectivity.poll_timeout().at <= now.monotonic) d.connectivity.handle_timeout(now);
  if (d.resolver->poll_timeout().at <= now.monotonic) d.resolver->handle_timeout(now);
  for (const auto& [gateway, link] : d.links) {
    d.handle_link_timeout(*link, now);
    link->control.handle_timeout(now.monotonic);
    d.send_control(*link, now);
    while (const auto key = link->control.poll_given_up()) d.handle_given_up(*link, *key, now);
  }
  for (const auto& [id, state] : d.states) {
    state->access.handle_timeout(now);
    if (state->access.take_doubt()) d.event(AgentEvent::portal_suspect);
    const std::vector<Target*> waiting(state->waiting.begin(), state->waiting.end());
    for (Target* target : waiting)
      if (target->queue.oldest() + kQueueAge <= now.monotonic)
        d.reject_waiting(*target, Undeliverable::unreachable, DropReason::gateway_unreachable, now);
    d.serve(*state, now);
  }
  if (d.eager()) d.handle_eager_timeout(now);
  if (now.monotonic >= d.welcome_due) {
    d.welcome_due = now.monotonic + d.welcome_patience.next(d.random);
    d.event(AgentEvent::portal_suspect);
  }
  if (now.monotonic >= d.next_sweep) d.sweep(now);
  d.settle(now);
}

// Targets that nobody has used for long; the next packet makes them anew. Not those that the gateway knows: it need not
// be asked again, nor its control process be there, when somebody uses them after all. Names bound their number.
void ClientAgent::Impl::sweep(Now now) {
  next_sweep = now.monotonic + kSweep;
  for (const auto& [id, state] : states) {
    std::erase_if(state->targets, [&](const auto& entry) {
      const Target& target = *entry.second;
      const bool known = target.announced != nullptr && target.status == Target::Name::active;
      const bool idle = !known && target.queue.empty() && !state->asked.contains(entry.second.get()) &&
                        target.used_at + kTargetIdle < now.monotonic;
      if (idle) changed();
      return idle;
    });
  }
}

void ClientAgent::close(Now now) {
  Impl& d = *impl_;
  for (const auto& [gateway, link] : d.links) {
    if (!link->managed || !link->session) continue;
    v1::Control message;
    message.mutable_goodbye()->set_reason("client ends");
    link->control.request("goodbye", std::move(message), now.monotonic, std::chrono::seconds{1});
    d.send_control(*link, now);
  }
  d.connectivity.close(now);
  d.settle(now);
}

// ---- outputs --------------------------------------------------------------------------------------------------------

namespace {

template <typename Item>
std::optional<Item> pop(std::deque<Item>& queue) {
  if (queue.empty()) return std::nullopt;
  std::optional<Item> out(std::move(queue.front()));
  queue.pop_front();
  return out;
}

}  // namespace

std::optional<OutDatagram> ClientAgent::poll_datagram() {
  return pop(impl_->datagrams);
}
void ClientAgent::poll_datagrams(std::deque<OutDatagram>& into) {
  std::deque<OutDatagram>& out = impl_->datagrams;
  if (into.empty()) {
    into.swap(out);
    return;
  }
  std::move(out.begin(), out.end(), std::back_inserter(into));
  out.clear();
}
std::optional<std::vector<std::uint8_t>> ClientAgent::poll_packet() {
  return pop(impl_->packets);
}
std::optional<v1::ClientToPortal> ClientAgent::poll_portal() {
  return pop(impl_->to_portal);
}
std::optional<DnsOutput> ClientAgent::poll_dns() {
  return pop(impl_->dns_outputs);
}
std::optional<AgentEvent> ClientAgent::poll_event() {
  return pop(impl_->events);
}
std::optional<LogLine> ClientAgent::poll_log() {
  return pop(impl_->log_lines);
}

void ClientAgent::recycle(std::vector<std::uint8_t> buffer) {
  if (impl_->spare.size() < kSpareBuffers) impl_->spare.push_back(std::move(buffer));
}

std::vector<std::uint8_t> ClientAgent::Impl::take_buffer(std::size_t size) {
  std::vector<std::uint8_t> out = take_room(size);
  out.resize(size);
  return out;
}

std::vector<std::uint8_t> ClientAgent::Impl::take_room(std::size_t size) {
  if (spare.empty()) return std::vector<std::uint8_t>(size);
  std::vector<std::uint8_t> out = std::move(spare.back());
  spare.pop_back();
  if (out.size() < size) out.resize(size);  // never smaller: what grows again is filled with zeroes
  return out;
}

void ClientAgent::Impl::log(LogLine::Level level, std::string text) {
  if (log_lines.size() < kMaxLogLines) log_lines.push_back({level, std::move(text)});
}

void ClientAgent::Impl::event(AgentEvent what) {
  if (std::find(events.begin(), events.end(), what) == events.end()) events.push_back(what);
}

InterfaceState ClientAgent::interface() const {
  return impl_->interface;
}
std::vector<IpAddress> ClientAgent::portal_upstreams() const {
  return impl_->portal_upstreams;
}
const wireguard::Timestamp& ClientAgent::last_timestamp() const {
  return impl_->device.last_timestamp();
}
std::uint64_t ClientAgent::drops(DropReason reason) const {
  return impl_->drops[static_cast<std::size_t>(reason)];
}
bool ClientAgent::welcomed() const {
  return impl_->ever_welcomed;
}

}  // namespace penstock::client
