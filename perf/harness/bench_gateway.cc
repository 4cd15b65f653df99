#include "perf/harness/bench_gateway.h"

#include <fmt/format.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "dataplane/core/wireguard/session.h"
#include "dataplane/gateway/messages.h"
#include "dataplane/runtime/clock.h"

namespace penstock::perf {
namespace {

using wireguard::AeadJob;

template <typename... Arguments>
[[noreturn]] void fail(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  fmt::print(stderr, text, std::forward<Arguments>(arguments)...);
  fmt::print(stderr, "\n");
  std::exit(1);
}

gateway::ConfigurationDescription description(const Shape& shape) {
  gateway::ConfigurationDescription out;
  const auto mtu = static_cast<std::uint16_t>(std::max(1500, shape.inner_mtu + 80));
  out.ports.push_back({"wan", kWanMac, {{gateway_wan(), 24}}, mtu, 0});
  out.ports.push_back({"lan", kLanMac, {{gateway_lan(false), 24}, {gateway_lan(true), 64}}, mtu, 0});
  out.routes.push_back({*Prefix::parse("0.0.0.0/0"), wan_router(), kWan});
  out.tunnel.port = kWan;
  out.tunnel.listen_port = kListenPort;
  out.inner_mtu = shape.inner_mtu;
  return out;
}

nat::TranslatorConfig translation(const Shape& shape, const gateway::Configuration& configuration, std::uint16_t worker,
                                  std::uint32_t max_peers) {
  nat::TranslatorConfig out;
  out.worker = worker;
  out.workers = shape.workers;
  for (const IpAddress& address : configuration.nat.source_addresses)
    (address.is_v4() ? out.source_v4 : out.source_v6).push_back(address);
  out.max_flows = shape.flows + 64;
  out.max_flows_per_peer = out.max_flows;
  out.max_peers = max_peers;
  out.mtu_inside = shape.inner_mtu;
  out.mtu_outside = configuration.ports[kLan].mtu;
  configuration.ours.for_each(
      [&out](const gateway::AddressSet::Entry& entry) { out.own_addresses.push_back(entry.address); });
  return out;
}

std::unique_ptr<policy::PeerPolicy> policy_of(PeerIndex peer, std::uint32_t number, const Families& families) {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer;
  out->tunnel_v4 = tunnel_address(number, false);
  out->tunnel_v6 = tunnel_address(number, true);
  policy::Authorisation authorisation;
  authorisation.id = "all";
  authorisation.resource = "servers";
  authorisation.pattern = "*.example";
  out->authorisations.push_back(authorisation);
  for (unsigned server = 0; server < kServers; ++server) {
    policy::Translation name;
    name.id = fmt::format("s{}", server);
    name.resource = "servers";
    name.name = fmt::format("s{}.example", server);
    name.proxy_v4 = proxy_address(server, false);
    name.proxy_v6 = proxy_address(server, true);
    name.state = policy::TranslationState::active;
    (families.outside6 ? name.real_v6 : name.real_v4).push_back(server_address(server, families.outside6));
    out->translations.push_back(name);
  }
  out->seal();
  return out;
}

}  // namespace

void CountedAead::seal(std::span<AeadJob> list) {
  const std::uint64_t before = __rdtsc();
  inner_->seal(list);
  cycles += __rdtsc() - before;
  jobs += list.size();
  ++calls;
}

void CountedAead::open(std::span<AeadJob> list) {
  const std::uint64_t before = __rdtsc();
  inner_->open(list);
  cycles += __rdtsc() - before;
  jobs += list.size();
  ++calls;
}

BenchGateway::BenchGateway(const Shape& shape)
    : shape_(shape),
      neighbours_(4096, 1),
      policies_(std::max(shape.configured_peers, shape.peers)),
      homes_(static_cast<std::uint32_t>(policies_.size())),
      aead_share_(shape.workers) {
  if (const auto error = gateway::Configuration::build(description(shape), configuration_))
    fail("configuration: {}: {}", error->key, error->reason);
  sealer_ = wireguard::make_aead_context("auto");
  opener_ = wireguard::make_aead_context("openssl");
  wireguard::DeviceConfig device;
  random_.fill(device.private_key.bytes);
  device.max_peers = policies_.size();
  device.traffic_writers = 1U + shape.workers;
  device.mtu = shape.inner_mtu;
  device.activity_granularity = std::chrono::milliseconds{100};
  device.aead = "openssl";
  device.under_load_per_s = device.per_source_per_s = device.per_source_burst = 1'000'000'000;
  public_key_ = *wireguard::derive_public_key(device.private_key);
  device_ = std::make_unique<wireguard::Device>(device, random_);
  add_neighbours();
  add_peers();

  ports_[kWan] = std::make_unique<MemoryPort>("memory-wan", kWanMac, shape.workers);
  ports_[kLan] = std::make_unique<MemoryPort>("memory-lan", kLanMac, shape.workers);
  const auto room = static_cast<std::uint16_t>(kOuterSize + wireguard::kDataOverhead + shape.largest + 32);
  for (std::uint16_t w = 0; w < shape.workers; ++w) links_.workers.push_back(std::make_unique<runtime::WorkerLink>());
  for (std::uint16_t w = 0; w < shape.workers; ++w) {
    auto set = std::make_unique<WorkerSet>();
    set->pool = std::make_unique<MemoryPool>(shape.buffers, room);
    auto aead = wireguard::make_aead_context(shape.aead);
    if (aead == nullptr) fail("AEAD backend {} is not available on this machine", shape.aead);
    set->aead = std::make_unique<CountedAead>(std::move(aead));
    nat::TranslatorConfig translator = translation(shape, configuration_, w,
                                                   static_cast<std::uint32_t>(policies_.size()));
    translator.homes = &homes_;
    set->translator = std::make_unique<nat::Translator>(translator, random_, *set->pool);
    gateway::Worker& worker = set->worker;
    worker.id = w;
    worker.workers = shape.workers;
    worker.now = runtime::read_clock();
    worker.configuration = &configuration_;
    worker.tunnels = &device_->data_path();
    worker.aead = set->aead.get();
    worker.translator = set->translator.get();
    worker.policies = &policies_;
    worker.neighbours = &neighbours_;
    worker.packets = set->pool.get();
    runtime::WorkerLoop::Setup setup;
    setup.worker = &worker;
    setup.ports = {ports_[kWan].get(), ports_[kLan].get()};
    setup.pool = set->pool.get();
    setup.platform = &platform_;
    setup.links = &links_;
    setup.poll = runtime::PollMode::busy;
    if (shape.workers > 1) {  // as the engine does it
      set->shared_aead = std::make_unique<runtime::SharedAead>(*set->aead, aead_share_, w);
      worker.aead = set->shared_aead.get();
      setup.shared_aead = set->shared_aead.get();
    }
    set->loop = std::make_unique<runtime::WorkerLoop>(setup);
    workers_.push_back(std::move(set));
  }
  translated_ports_.resize(shape.flows);
}

BenchGateway::~BenchGateway() {
  for (PeerIndex peer = 0; peer < policies_.size(); ++peer) policies_.publish(peer, nullptr);
}

void BenchGateway::add_neighbours() {
  neighbours_.update(neighbours_.insert(kWan, wan_router()), kRouterMac, gateway::NeighbourState::reachable);
  for (unsigned server = 0; server < kServers; ++server)
    for (const bool v6 : {false, true})
      neighbours_.update(neighbours_.insert(kLan, server_address(server, v6)), server_mac(server),
                         gateway::NeighbourState::reachable);
}

void BenchGateway::add_peers() {
  const Now now = runtime::read_clock();
  const auto count = static_cast<std::uint32_t>(policies_.size());
  for (std::uint32_t number = 0; number < count; ++number) {
    wireguard::PeerConfig config;
    wireguard::PrivateKey key;
    random_.fill(key.bytes);
    if (number < shape_.peers) {
      config.public_key = *wireguard::derive_public_key(key);
      client_keys_.push_back(key);
    } else {
      config.public_key.bytes = key.bytes;  // never spoken to: any key does
      config.public_key.bytes[31] &= 0x7f;
    }
    config.path_switch = true;
    const auto added = device_->add_peer(config, now);
    if (added.error != wireguard::PeerError::none) fail("peer {}: {}", number, text_of(added.error));
    if (number < shape_.peers) peers_.push_back(added.peer);
    published_.push_back(policy_of(added.peer, number, shape_.families));
    policies_.publish(added.peer, published_.back().get());
  }
  sessions_.resize(shape_.peers);
}

void BenchGateway::connect() {
  for (std::uint32_t peer = 0; peer < shape_.peers; ++peer) connect(peer);
}

// The client is a Device of its own for as long as the handshake takes; of its session only the keys stay.
void BenchGateway::connect(std::uint32_t peer) {
  const Now now = runtime::read_clock();
  wireguard::DeviceConfig config;
  config.private_key = client_keys_[peer];
  config.max_peers = 1;
  config.aead = "openssl";
  wireguard::Device client(config, random_);
  wireguard::PeerConfig there;
  there.public_key = public_key_;
  there.endpoints = {{gateway_wan(), kListenPort}};
  const PeerIndex gateway = client.add_peer(there, now).peer;
  const Path seen_by_gateway{{gateway_wan(), kListenPort}, client_endpoint(peer), 0};
  const Path seen_by_client{client_endpoint(peer), {gateway_wan(), kListenPort}, 0};
  client.want_session(gateway, now);
  const auto initiation = client.poll_output();
  if (!initiation) fail("peer {} starts no handshake", peer);
  if (const DropReason reason = device_->handle_handshake(initiation->bytes, seen_by_gateway, now);
      reason != DropReason::none)
    fail("peer {}: initiation refused: {}", peer, text_of(reason));
  while (auto answer = device_->poll_output()) client.handle_datagram(answer->bytes, seen_by_client, now);
  while (device_->poll_event()) {
  }
  const wireguard::Session* session = client.data_path().sending_session(gateway, now.monotonic);
  if (session == nullptr) fail("peer {}: no session", peer);
  ClientSession& mine = sessions_[peer];
  peer_of_index_.erase(mine.local_index);
  peer_of_index_[session->local_index] = peer;
  mine = {session->send_key, session->receive_key, session->local_index, session->remote_index,
          session->send_counter.load()};
  device_->handle_note({wireguard::note_bit::confirmed, mine.remote_index, peers_[peer], seen_by_gateway}, now);
  while (device_->poll_output()) {
  }
  while (device_->poll_event()) {
  }
}

std::uint16_t BenchGateway::home_of(const Flow& flow, bool up) const {
  if (shape_.workers == 1) return 0;
  const std::uint32_t of = up ? flow.peer : translated_ports_[flow.number] / 2U;
  return static_cast<std::uint16_t>(of % shape_.workers);
}

void BenchGateway::take_notes() {
  const Now now = runtime::read_clock();
  Packet* taken[kBurst];
  for (std::uint16_t w = 0; w < shape_.workers; ++w) {
    auto& link = *links_.workers[w];
    for (auto* ring : {&link.slow, &link.handshake, &link.exception}) {
      while (const std::size_t n = ring->pop(std::span<Packet*>(taken))) {
        for (std::size_t i = 0; i < n; ++i) {
          const Packet& packet = *taken[i];
          if (ring == &link.slow && gateway::kind_of<gateway::ToSlow>(packet) == gateway::ToSlow::note)
            device_->handle_note({static_cast<wireguard::NoteBits>(packet.user >> 8),
                                  static_cast<std::uint32_t>(packet.user >> 32), packet.peer, packet.outer},
                                 now);
        }
        workers_[w]->pool->release({taken, n});
      }
    }
  }
  while (device_->poll_output()) {
  }
  while (device_->poll_event()) {
  }
}

void BenchGateway::run_until_idle() {
  for (bool busy = true; busy;) {
    busy = false;
    for (std::uint16_t w = 0; w < shape_.workers; ++w)
      while (step(w)) busy = true;
  }
  take_notes();
}

void BenchGateway::free_sent() {
  for (const auto& port : ports_)
    for (std::uint16_t w = 0; w < shape_.workers; ++w) {
      workers_[w]->pool->release(port->sent(w));
      port->forget(w);
    }
}

void BenchGateway::send_first_packets(std::uint32_t first, std::uint32_t end, bool up, std::uint8_t tcp_flags) {
  std::vector<std::vector<Packet*>> frames(shape_.workers);
  std::vector<AeadJob> jobs(end - first);
  for (std::uint32_t number = first; number < end; ++number) {
    const Flow flow = flow_of(number, shape_.peers);
    const std::uint16_t w = home_of(flow, up);
    Packet* frame = up ? frame_from_client(w, flow, kShortest, number, tcp_flags, jobs[number - first])
                       : frame_from_server(w, flow, kShortest, number, tcp_flags);
    if (frame == nullptr) fail("too few buffers");
    frames[w].push_back(frame);
  }
  if (up) seal(jobs);
  for (std::uint16_t w = 0; w < shape_.workers; ++w) ports_[up ? kWan : kLan]->lay_ready(w, frames[w]);
  run_until_idle();
}

void BenchGateway::open_flows() {
  const auto burst = static_cast<std::uint32_t>(std::min<std::size_t>(shape_.buffers / 2, 4096));
  for (std::uint32_t first = 0; first < shape_.flows; first += burst) {
    const std::uint32_t end = std::min(first + burst, shape_.flows);
    send_first_packets(first, end, true, tcp_flag::syn);
    std::uint32_t seen = 0;
    for (std::uint16_t w = 0; w < shape_.workers; ++w) {
      for (const Packet* frame : ports_[kLan]->sent(w)) {
        const Bytes packet = Bytes{frame->bytes()}.subspan(sizeof(EthernetHeader));
        const std::uint32_t number = number_of(packet).value_or(end);
        if (number < first || number >= end) fail("a first packet came out as another: {}", number);
        translated_ports_[number] = source_port_of(packet);
        ++seen;
      }
    }
    if (seen != end - first) fail("{} of {} flows did not open: {}", end - first - seen, end - first, describe_drops());
    free_sent();
    send_first_packets(first, end, false, tcp_flag::syn | tcp_flag::ack);
    free_sent();
  }
  if (drops() != 0) fail("flows did not open: {}", describe_drops());
}

std::uint64_t BenchGateway::drops() const {
  std::uint64_t sum = 0;
  for (const auto& set : workers_)
    for (const std::uint64_t count : set->worker.counters.drops) sum += count;
  return sum;
}

std::string BenchGateway::describe_drops() const {
  std::string out;
  for (const auto& set : workers_)
    for (std::size_t reason = 0; reason < kDropReasonCount; ++reason)
      if (const std::uint64_t count = set->worker.counters.drops[reason]; count != 0)
        out += fmt::format("{} {} ", count, name_of(static_cast<DropReason>(reason)));
  return out.empty() ? "no drops" : out;
}

}  // namespace penstock::perf
