#include "dataplane/runtime/engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/engine_state.h"
#include "dataplane/runtime/numa.h"
#include "dataplane/runtime/peer_config.h"

namespace penstock::runtime {
namespace {

using namespace std::chrono_literals;

// A granularity that no timer of WireGuard notices, coarse enough that workers rarely write what others read.
constexpr Duration kActivityGranularity = 100ms;
// Peers changed per turn of the slow thread: a full synchronisation does not hold up probes.
constexpr std::size_t kPeersPerCommand = 256;

nat::TranslatorConfig translator_config(const Config& config, const gateway::Configuration& path,
                                        std::uint16_t worker, nat::PeerHomes* homes) {
  nat::TranslatorConfig out;
  out.worker = worker;
  out.workers = config.workers;
  out.homes = homes;
  for (const IpAddress& address : path.nat.source_addresses)
    (address.is_v4() ? out.source_v4 : out.source_v6).push_back(address);
  out.first_port = path.nat.first_port;
  out.last_port = path.nat.last_port;
  out.reserved_udp_port = path.tunnel.listen_port;
  out.max_flows = std::max(1U, path.nat.max_flows / config.workers);
  out.max_flows_per_peer = std::min(path.nat.max_flows_per_peer, out.max_flows);
  out.max_peers = config.max_peers;
  out.site = path.nat.site;
  out.unsolicited = path.nat.unsolicited;
  out.hairpinning = path.nat.hairpinning;
  out.lowest_ipv6_mtu = path.nat.lowest_ipv6_mtu;
  out.mtu_inside = path.inner_mtu;
  std::uint16_t outside = 0;
  for (std::size_t i = 0; i < path.ports.size(); ++i)
    if (i != path.tunnel.port || path.ports.size() == 1) outside = std::max(outside, path.ports[i].mtu);
  out.mtu_outside = outside;
  out.tunnel_v4 = config.pools.tunnel_v4;
  out.tunnel_v6 = config.pools.tunnel_v6;
  out.proxy_v4 = config.pools.proxy_v4;
  out.proxy_v6 = config.pools.proxy_v6;
  path.ours.for_each([&](const gateway::AddressSet::Entry& entry) { out.own_addresses.push_back(entry.address); });
  return out;
}

// Replies come from the LAN's ports, or from the only one. Which of several a flow's come from is not known when its port is
// chosen, so all must spread alike.
std::unique_ptr<nat::ReplySteering> find_steering(const Config& config, const gateway::Configuration& path,
                                                  const std::vector<std::unique_ptr<Port>>& ports) {
  if (config.workers < 2) return nullptr;
  std::optional<nat::RssLayout> common;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    if (i == path.tunnel.port && ports.size() > 1) continue;
    std::optional<nat::RssLayout> layout = ports[i]->rss_layout();
    if (!layout || !nat::ReplySteering::usable(*layout, config.workers) || (common && *common != *layout)) return nullptr;
    common = std::move(layout);
  }
  if (!common) return nullptr;
  spdlog::info("ports of flows are chosen so that replies come to the flow's worker");
  return std::make_unique<nat::ReplySteering>(*common);
}

void change_peer(gateway::SlowPath& slow, PeerChange& change, Now now) {
  if (change.kind == PeerChange::Kind::remove) {
    slow.remove_peer(change.spec.public_key, now);
    return;
  }
  const auto peer = slow.upsert_peer(peer_config(change.spec), now);
  if (peer) {
    change.peer = *peer;
  } else {
    change.error = "the table of peers is full or the key is not a valid public key";
  }
}

}  // namespace

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() {
  stop();
}

std::variant<std::unique_ptr<Engine>, ConfigError> Engine::create(const Config& config, const KeyBytes& private_key,
                                                                  Parts parts) {
  auto state = std::make_unique<State>();
  state->config = config;
  state->parts = std::move(parts);
  if (const auto error = gateway::Configuration::build(config.path, state->path))
    return ConfigError{config.file, error->key, error->reason};

  state->site.set(effective_settings(config.site, {}));
  state->path.nat.site = &state->site;

  wireguard::PrivateKey key{private_key};
  const auto public_key = wireguard::derive_public_key(key);
  if (!public_key) return ConfigError{config.file, "private_key_file", "does not hold a usable key"};
  state->public_key = public_key->bytes;
  state->instance = state->random.next_u64();
  state->policies = std::make_unique<gateway::PolicyTable>(config.max_peers);
  state->path.device_checksums =
      std::ranges::all_of(state->parts.ports, [](const auto& port) { return port->fills_checksums(); });
  state->homes = std::make_unique<nat::PeerHomes>(config.max_peers);
  state->steering = find_steering(config, state->path, state->parts.ports);
  state->neighbours = std::make_unique<gateway::NeighbourTable>(4096, state->random.next_u64());
  for (std::uint16_t i = 0; i < config.workers; ++i) state->links.workers.push_back(std::make_unique<WorkerLink>());

  const Now now = read_clock();
  state->started = now.monotonic;
  state->next_use_report = now.monotonic;
  wireguard::DeviceConfig device;
  device.private_key = key;
  device.max_peers = config.max_peers;
  device.traffic_writers = 1U + config.workers;
  device.mtu = config.path.inner_mtu;
  device.activity_granularity = kActivityGranularity;
  device.aead = config.aead;
  wireguard::set_own_blake2s(config.own_blake2s);
  device.handshakes_in_flight = config.handshake_threads * HandshakeThread::kWorks;
  device.retire = [&reclaimer = state->reclaimer](wireguard::Session* session) {
    reclaimer.retire([session] { wireguard::destroy_session(session); });
  };
  // Handshakes of one boot to the next: a clock set back may not lock peers out, but this process persists nothing of
  // its own; its timestamps come from the wall clock.
  gateway::SlowPathLimits limits;
  limits.workers = config.workers;
  state->slow_path = std::make_unique<gateway::SlowPath>(state->path, device, *state->policies, *state->neighbours,
                                                         *state->parts.pool, state->random, now, limits);
  state->resend_gates = std::make_unique<gateway::ResendGates>(config.max_peers);
  state->links.add_handshake_threads(config.handshake_threads, state->slow_path->tunnels().known_sources(),
                                     state->random.next_u64(), device.cookies_per_s);
  for (std::size_t i = 0; i < config.handshake_threads; ++i) {
    HandshakeThread::Setup setup;
    setup.number = i;
    setup.private_key = key;
    setup.limits = wireguard::gate_limits(device);
    setup.pool = state->parts.pool.get();
    setup.platform = state->parts.platform;
    setup.links = &state->links;
    state->handshakes.push_back(std::make_unique<HandshakeThread>(setup));
    wireguard::wipe(setup.private_key.bytes);
  }
  wireguard::wipe(key.bytes);
  wireguard::wipe(device.private_key.bytes);
  state->slow_path->set_stun_servers(config.stun_servers, now);

  // Helpers must not lose their core in the middle: only workers that have one each.
  if (config.workers > 1 && config.poll == PollMode::busy)
    state->aead_share = std::make_unique<AeadShare>(config.workers);
  std::vector<Port*> ports;
  for (const auto& port : state->parts.ports) ports.push_back(port.get());
  for (std::uint16_t i = 0; i < config.workers; ++i) {
    auto set = std::make_unique<WorkerSet>();
    if (!config.cores.empty()) set->node = node_of_cpu(config.cores[i]);
    const OnNode near(set->node);
    set->aead = wireguard::make_aead_context(config.aead);
    if (set->aead == nullptr)
      return ConfigError{config.file, "aead", fmt::format("{} is not available on this machine", config.aead)};
    nat::TranslatorConfig translation = translator_config(config, state->path, i, state->homes.get());
    translation.steering = state->steering.get();
    if (config.nat_log != NatLog::off) {
      set->binding_log = std::make_unique<RingBindingLog>(config.nat_log == NatLog::sessions);
      translation.log = set->binding_log.get();
    }
    set->translator = std::make_unique<nat::Translator>(translation, set->random, *state->parts.pool);
    gateway::Worker& worker = set->worker;
    worker.id = i;
    worker.workers = config.workers;
    worker.now = now;
    worker.configuration = &state->path;
    worker.tunnels = &state->slow_path->tunnels().data_path();
    worker.aead = set->aead.get();
    if (state->aead_share != nullptr) {
      set->shared_aead = std::make_unique<SharedAead>(*set->aead, *state->aead_share, i);
      worker.aead = set->shared_aead.get();
    }
    worker.translator = set->translator.get();
    worker.policies = state->policies.get();
    worker.neighbours = state->neighbours.get();
    worker.packets = state->parts.pool.get();
    set->resend = std::make_unique<gateway::ResendStore>(*state->resend_gates, config.max_peers);
    worker.resend = set->resend.get();
    WorkerLoop::Setup setup;
    setup.worker = &worker;
    setup.ports = ports;
    setup.pool = state->parts.pool.get();
    setup.platform = state->parts.platform;
    setup.links = &state->links;
    setup.poll = config.poll;
    setup.shared_aead = set->shared_aead.get();
    if (!config.cores.empty()) setup.core = config.cores[i];
    set->loop = std::make_unique<WorkerLoop>(setup);
    state->workers.push_back(std::move(set));
  }
  SlowThread::Setup slow;
  slow.path = state->slow_path.get();
  slow.pool = state->parts.pool.get();
  slow.kernel = state->parts.kernel.get();
  slow.platform = state->parts.platform;
  slow.links = &state->links;
  slow.events = &state->events;
  slow.punts = &state->punts;
  state->slow = std::make_unique<SlowThread>(slow);
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

void Engine::start() {
  state_->running = true;
  if (state_->warm) state_->warm->pause = read_clock().monotonic - state_->left_at;
  state_->slow->start();
  for (auto& thread : state_->handshakes) thread->start();
  for (auto& set : state_->workers) set->loop->start();
}

// Workers end first, then handshake threads, so that nothing new reaches the slow thread; then whatever is still on a ring
// is freed.
void Engine::stop() {
  if (!state_->running) return;
  state_->running = false;
  for (auto& set : state_->workers) set->loop->stop();
  for (auto& thread : state_->handshakes) thread->stop();
  state_->slow->stop();
  state_->free_everything();
}

Engine::State::~State() {
  if (policies == nullptr) return;
  for (PeerIndex peer = 0; peer < policies->size(); ++peer) delete policies->publish(peer, nullptr);
}

void Engine::State::free_everything() {
  Packet* taken[kBurst];
  const auto empty = [&](auto& ring) {
    while (const std::size_t n = ring.pop(std::span<Packet*>(taken)))
      parts.pool->release(std::span<Packet* const>(taken, n));
  };
  for (auto& link : links.workers) {
    empty(link->handshake);
    empty(link->slow);
    empty(link->exception);
    empty(link->injected);
    empty(link->from_kernel);
    empty(link->handover);
    for (auto& rings : link->handshakes) {
      empty(rings->known);
      empty(rings->strangers);
      empty(rings->replies);
    }
  }
  for (auto& link : links.handshakes) empty(link->admitted);
  for (auto& set : workers) {
    nat::Outcomes outcomes;
    set->translator->release_held(outcomes);
    for (const auto& outcome : outcomes)
      if (outcome.packet != nullptr) parts.pool->release(std::span<Packet* const>(&outcome.packet, 1));
  }
  reclaimer.collect();
}

void Engine::State::on_slow_path(const SlowThread::Command& command) {
  if (!slow->run(command)) command(*slow_path, read_clock());
}

void Engine::State::send(SlowThread::Command command) {
  const bool behind = sends.fetch_add(1, std::memory_order_relaxed) >= kSendsUnderWay;
  const auto counted = [this, command = std::move(command)](gateway::SlowPath& to, Now now) {
    command(to, now);
    sends.fetch_sub(1, std::memory_order_relaxed);
  };
  if (behind || !slow->post(counted)) on_slow_path(counted);
}

void Engine::change_peers(std::span<PeerChange> changes) {
  while (!changes.empty()) {
    const auto now_part = changes.first(std::min(changes.size(), kPeersPerCommand));
    changes = changes.subspan(now_part.size());
    state_->on_slow_path([&](gateway::SlowPath& slow, Now now) {
      for (PeerChange& change : now_part) change_peer(slow, change, now);
    });
  }
}

void Engine::publish(std::span<PolicyPublication> publications, bool wait) {
  std::vector<PeerIndex> peers;
  for (PolicyPublication& publication : publications) {
    if (publication.peer >= state_->policies->size()) continue;
    peers.push_back(publication.peer);
    const policy::PeerPolicy* old = state_->policies->publish(publication.peer, publication.policy.release());
    if (old != nullptr) state_->reclaimer.retire([old] { delete old; });
  }
  if (wait) {
    rcu::synchronize();
    state_->reclaimer.collect();
  for (auto& set : state_->workers)
    if (set->binding_log != nullptr) set->binding_log->drain();
  }
  state_->slow->post([peers = std::move(peers)](gateway::SlowPath& slow, Now now) {
    for (const PeerIndex peer : peers) slow.policy_published(peer, now);
  });
}

void Engine::set_site(const SiteSpec& site) {
  const nat::SiteSettings settings = effective_settings(state_->config.site, site);
  if (settings == nat::SharedSiteSettings::of(state_->site.word())) return;
  state_->site.set(settings);
  constexpr const char* kWhom[] = {"address_and_port_dependent", "address_dependent", "endpoint_independent"};
  spdlog::info("site: source_nat {}, mapping {}, filtering {}", settings.keep_source ? "off" : "on",
               settings.mapping == nat::Mapping::endpoint_independent ? kWhom[2] : kWhom[0],
               kWhom[static_cast<std::size_t>(settings.filtering)]);
}

void Engine::set_stun_servers(std::vector<Endpoint> servers) {
  state_->on_slow_path([&](gateway::SlowPath& slow, Now now) { slow.set_stun_servers(servers, now); });
}

void Engine::send_control(const KeyBytes& peer, Bytes payload) {
  state_->send([peer, bytes = std::vector(payload.begin(), payload.end())](gateway::SlowPath& slow, Now now) {
    const auto index = slow.find_peer(peer);
    const DropReason reason = index ? slow.send_control(*index, bytes, now) : DropReason::wg_unknown_peer;
    if (reason != DropReason::none) spdlog::debug("in-tunnel control not sent: {}", name_of(reason));
  });
}

void Engine::send_datagram(std::vector<Endpoint> remotes, Bytes payload) {
  state_->send([to = std::move(remotes), bytes = std::vector(payload.begin(), payload.end())](auto& slow, Now now) {
    for (const Endpoint& remote : to)
      if (const DropReason reason = slow.send_datagram(remote, bytes, now); reason != DropReason::none)
        spdlog::debug("datagram to {} not sent: {}", remote.to_string(), name_of(reason));
  });
}

BoundedQueue<EngineEvent>& Engine::events() {
  return state_->events;
}
BoundedQueue<Punt>& Engine::punts() {
  return state_->punts;
}

void Engine::maintain() {
  state_->reclaimer.collect();
  constexpr std::size_t kPolicies = 64;
  policy::PeerPolicy::map_ahead(kPolicies);
  state_->slow_path->tunnels().map_ahead();
  if (!std::exchange(state_->gates_mapped, true)) state_->resend_gates->map_front();
  for (auto& set : state_->workers) {
    const OnNode near(set->node);
    set->translator->map_ahead();
    set->resend->map_ahead();
  }
  if (read_clock().monotonic >= state_->next_use_report) state_->report_translation_use();
}

}  // namespace penstock::runtime
