#include "tests/unit/gateway/harness.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway::test {
namespace {

wireguard::PrivateKey private_key(std::uint64_t seed) {
  SeededRandom random(seed);
  wireguard::PrivateKey key;
  random.fill(key.bytes);
  return key;
}

}  // namespace

Gateway::Gateway(const GatewayOptions& options) {
  const auto error = Configuration::build(options.description, configuration);
  EXPECT_FALSE(error) << (error ? error->key + ": " + error->reason : "");
  wireguard::DeviceConfig device;
  device.private_key = private_key(99);
  device.max_peers = policies.size();
  device.traffic_writers = options.workers + 1U;
  device.mtu = configuration.inner_mtu;
  device.activity_granularity = 100ms;
  device.aead = "openssl";
  public_key = *wireguard::derive_public_key(device.private_key);
  SlowPathLimits limits = options.limits;
  limits.workers = options.workers;
  slow = std::make_unique<SlowPath>(configuration, device, policies, neighbours, packets, random, now_, limits);

  nat::TranslatorConfig translation;
  translation.workers = options.workers;
  for (const IpAddress& source : configuration.nat.source_addresses)
    (source.is_v4() ? translation.source_v4 : translation.source_v6).push_back(source);
  configuration.ours.for_each(
      [&translation](const AddressSet::Entry& entry) { translation.own_addresses.push_back(entry.address); });
  translation.max_flows = options.max_flows;
  translation.max_peers = static_cast<std::uint32_t>(policies.size());
  translation.mtu_inside = configuration.inner_mtu;
  for (std::uint16_t id = 0; id < options.workers; ++id) {
    translation.worker = id;
    translators_.push_back(std::make_unique<nat::Translator>(translation, random, packets));
    aead_.push_back(wireguard::make_aead_context("openssl"));
    auto worker = std::make_unique<Worker>();
    worker->id = id;
    worker->workers = options.workers;
    worker->now = now_;
    worker->configuration = &configuration;
    worker->tunnels = &slow->tunnels().data_path();
    worker->aead = aead_.back().get();
    worker->translator = translators_.back().get();
    worker->policies = &policies;
    worker->neighbours = &neighbours;
    worker->packets = &packets;
    resend.push_back(std::make_unique<ResendStore>(resend_gates, policies.size(), options.resend_blocks));
    worker->resend = resend.back().get();
    workers.push_back(std::move(worker));
  }
}

Gateway::~Gateway() = default;

Host& Gateway::add_host(PortIndex port, const MacAddress& mac, std::vector<IpAddress> addresses) {
  auto host = std::make_unique<Host>();
  host->mac = mac;
  host->addresses = std::move(addresses);
  hosts_[port].push_back(std::move(host));
  return *hosts_[port].back();
}

void Gateway::receive(PortIndex port, const Octets& frame, std::uint16_t worker) {
  receive(port, std::vector<Octets>{frame}, worker);
}

void Gateway::receive(PortIndex port, const std::vector<Octets>& frames, std::uint16_t worker) {
  pending_.push_back([this, port, frames, worker] {
    PacketBurst burst;
    for (const Octets& frame : frames) burst.add(packets.with(frame, port));
    workers[worker]->now = now_;
    process_rx(*workers[worker], burst);
    drain(*workers[worker]);
  });
  settle();
}

void Gateway::receive_from(const Host& host, PortIndex port, const Octets& packet, std::uint16_t worker) {
  receive(port, frame(host.mac, configuration.ports[port].mac, packet, configuration.ports[port].vlan), worker);
}

void Gateway::from_kernel(const Octets& frame) {
  pending_.push_back([this, frame] {
    PacketBurst burst;
    burst.add(packets.with(frame));
    workers[0]->now = now_;
    process_exception(*workers[0], burst);
    drain(*workers[0]);
  });
  settle();
}

void Gateway::settle() {
  if (settling_) return;
  settling_ = true;
  drain_slow();
  while (!pending_.empty()) {
    const std::function<void()> next = std::move(pending_.front());
    pending_.pop_front();
    next();
    drain_slow();
  }
  settling_ = false;
}

void Gateway::drain(Worker& worker) {
  for (std::size_t port = 0; port < configuration.ports.size(); ++port) {
    for (Packet* packet : worker.out.tx[port]) {
      pending_.push_back([this, port, frame = copy(packet->bytes())] { deliver(static_cast<PortIndex>(port), frame); });
      packets.release(packet);
    }
    worker.out.tx[port].clear();
  }
  for (std::size_t other = 0; other < workers.size(); ++other) {
    for (Packet* packet : worker.out.handover[other])
      pending_.push_back([this, other, packet] {
        PacketBurst burst;
        burst.add(packet);
        workers[other]->now = now_;
        process_handover(*workers[other], burst);
        drain(*workers[other]);
      });
    worker.out.handover[other].clear();
  }
  for (PacketList* list : {&worker.out.handshake, &worker.out.slow}) {
    std::vector<Packet*> taken(list->begin(), list->end());
    list->clear();
    if (taken.empty()) continue;
    pending_.push_back([this, taken] {
      slow->handle(taken, now_);
      drain_slow();
    });
  }
  for (Packet* packet : worker.out.exception) {
    to_kernel.push_back(copy(packet->bytes()));
    packets.release(packet);
  }
  worker.out.exception.clear();
  for (Packet* packet : worker.out.dropped) packets.release(packet);
  worker.out.dropped.clear();
}

void Gateway::drain_slow() {
  SlowOutput& output = slow->output();
  for (Packet* packet : output.to_workers)
    pending_.push_back([this, packet] {
      PacketBurst burst;
      burst.add(packet);
      Worker& worker = *workers[packet->rss_worker];
      worker.now = now_;
      process_injected(worker, burst);
      drain(worker);
    });
  output.to_workers.clear();
  for (Packet* packet : output.punt) {
    punted.push_back({packet->peer, packet->outer, copy(packet->bytes())});
    packets.release(packet);
  }
  output.punt.clear();
  for (Packet* packet : output.freed) packets.release(packet);
  output.freed.clear();
  while (const auto event = slow->poll_event()) events.push_back(*event);
}

void Gateway::deliver(PortIndex port, const Octets& frame) {
  sent[port].push_back(frame);
  const std::size_t header = configuration.ports[port].vlan != 0 ? 18 : 14;
  const bool is_ip = frame[header - 2] != 0x08 || frame[header - 1] != 0x06;
  if (is_ip) {
    const Octets packet(frame.begin() + static_cast<std::ptrdiff_t>(header), frame.end());
    for (std::size_t i = listeners.size(); i-- > 0;)
      if (listeners[i]->take(port, packet)) return;
  }
  for (const auto& host : hosts_[port]) answer(port, *host, frame);
}

void Gateway::answer(PortIndex port, Host& host, const Octets& frame) {
  const PortConfiguration& link = configuration.ports[port];
  const std::size_t header = link.vlan != 0 ? 18 : 14;
  const bool group = (frame[0] & 1) != 0;
  if (!group && !std::equal(host.mac.begin(), host.mac.end(), frame.begin())) return;
  const Octets payload(frame.begin() + static_cast<std::ptrdiff_t>(header), frame.end());
  const auto has = [&host](const IpAddress& address) {
    return std::find(host.addresses.begin(), host.addresses.end(), address) != host.addresses.end();
  };
  const auto reply = [&](const Octets& answer_frame) {
    pending_.push_back([this, port, answer_frame] {
      PacketBurst burst;
      burst.add(packets.with(answer_frame, port));
      workers[0]->now = now_;
      process_rx(*workers[0], burst);
      drain(*workers[0]);
    });
  };
  if (frame[header - 2] == 0x08 && frame[header - 1] == 0x06) {
    const auto question = parse_arp(payload);
    if (question && question->request && has(question->target) && host.answers_neighbours)
      reply(ethernet(host.mac, link.mac, EtherType::arp,
                     arp(false, question->target, host.mac, question->sender, question->sender_mac), link.vlan));
    return;
  }
  const IpParse parse = parse_ip(payload);
  ASSERT_EQ(parse.reason, DropReason::none) << "the gateway sent a malformed packet";
  const IpAddress source = ip_source(payload, parse.view), destination = ip_destination(payload, parse.view);
  const std::uint8_t type = parse.view.header_length < payload.size() ? payload[parse.view.header_length] : 0;
  if (parse.view.protocol == ip_protocol::icmpv6 && type == icmp6::neighbour_solicitation) {
    const IpAddress target = IpAddress::from_wire(Bytes{payload}.subspan(48, 16));
    if (has(target) && host.answers_neighbours)
      reply(test::frame(
          host.mac, link.mac,
          discovery(icmp6::neighbour_advertisement, target, source, target, 0x60, link_layer_option(2, host.mac)),
          link.vlan));
    return;
  }
  if (!has(destination)) return;
  host.received.push_back(payload);
  const bool echo = !parse.view.fragment() && ((parse.view.protocol == ip_protocol::icmp && type == icmp4::echo) ||
                                               (parse.view.protocol == ip_protocol::icmpv6 && type == icmp6::echo));
  if (!echo || !host.echoes) return;
  const auto* icmp = view_as<IcmpHeader>(Bytes{payload}.subspan(parse.view.header_length));
  const Octets data(payload.begin() + parse.view.header_length + 8, payload.begin() + parse.view.total_length);
  reply(test::frame(host.mac, link.mac,
                    icmp_packet(destination, source, destination.is_v4() ? icmp4::echo_reply : icmp6::echo_reply, 0,
                                icmp->field1.host(), icmp->field2.host(), data),
                    link.vlan));
}

Instant Gateway::tell_time() {
  Instant next = kNever;
  for (Listener* listener : listeners) next = std::min(next, listener->on_time(now_));
  return next;
}

void Gateway::run(Duration time) {
  const Instant end = now_.monotonic + time;
  settle();
  for (;;) {
    Instant next = std::min(end, slow->poll_timeout().at);
    for (const auto& translator : translators_) next = std::min(next, translator->poll_timeout());
    for (const auto& store : resend) next = std::min(next, store->next());
    next = std::min(next, tell_time());
    // trap: paths-21: a timer that has fired and stays due would stop the time.
    if (next > now_.monotonic) {
      const Duration step = next - now_.monotonic;
      const std::uint64_t nanoseconds = now_.wall.nanoseconds + static_cast<std::uint64_t>(step.count());
      now_.monotonic = next;
      now_.wall.seconds += nanoseconds / 1'000'000'000;
      now_.wall.nanoseconds = static_cast<std::uint32_t>(nanoseconds % 1'000'000'000);
    }
    if (slow->poll_timeout().at <= now_.monotonic) {
      slow->handle_timeout(now_);
      ASSERT_GT(slow->poll_timeout().at, now_.monotonic) << slow->poll_timeout().why << " stays due";
    }
    for (auto& worker : workers) {
      worker->now = now_;
      end_of_loop(*worker);
      drain(*worker);
    }
    settle();
    (void)tell_time();
    if (now_.monotonic >= end) return;
  }
}

PeerIndex Gateway::add_peer(const wireguard::PeerConfig& config) {
  const auto index = slow->upsert_peer(config, now_);
  EXPECT_TRUE(index);
  settle();
  return *index;
}

void Gateway::publish(std::unique_ptr<policy::PeerPolicy> policy) {
  policy->epoch = next_epoch++;
  policy->seal();
  const PeerIndex peer = policy->peer;
  policies.publish(peer, policy.get());
  published_.push_back(std::move(policy));
  slow->policy_published(peer, now_);
  settle();
}

std::uint64_t Gateway::drops(DropReason reason) const {
  std::uint64_t sum = slow->drops()[static_cast<std::size_t>(reason)];
  for (const auto& worker : workers) sum += worker->counters.drops[static_cast<std::size_t>(reason)];
  return sum;
}

std::uint64_t Gateway::all_drops() const {
  std::uint64_t sum = 0;
  for (std::size_t reason = 0; reason < kDropReasonCount; ++reason) sum += drops(static_cast<DropReason>(reason));
  return sum;
}

std::string Gateway::describe_drops() const {
  std::string out = "dropped:";
  for (std::size_t reason = 0; reason < kDropReasonCount; ++reason) {
    const std::uint64_t count = drops(static_cast<DropReason>(reason));
    if (count != 0)
      out.append(" ").append(name_of(static_cast<DropReason>(reason))).append("=").append(std::to_string(count));
  }
  return out;
}

Listener::Listener(Gateway& gateway) : gateway_(gateway) {
  gateway_.listeners.push_back(this);
}
Listener::~Listener() {
  std::erase(gateway_.listeners, this);
}

// --- Client

Client::Client(Gateway& gateway, const Endpoint& endpoint, std::uint64_t seed, bool control)
    : Listener(gateway),
      tunnel_v4(IpAddress::v4(0x64400000 + static_cast<std::uint32_t>(seed))),
      tunnel_v6(ip("fd00:2021:1111::" + std::to_string(seed))),
      address(endpoint),
      gateway_address{endpoint.address.is_v4() ? gateway.configuration.tunnel_v4 : gateway.configuration.tunnel_v6,
                      gateway.configuration.tunnel.listen_port},
      random_(seed) {
  wireguard::DeviceConfig config;
  config.private_key = private_key(seed + 1000);
  config.aead = "openssl";
  device_ = std::make_unique<wireguard::Device>(config, random_);
  wireguard::PeerConfig there;
  there.public_key = gateway.public_key;
  there.endpoints = {gateway_address};
  there_ = device_->add_peer(there, gateway.now()).peer;
  wireguard::PeerConfig here;
  here.public_key = device_->public_key();
  here.path_switch = control;
  peer = gateway.add_peer(here);
}

std::unique_ptr<policy::PeerPolicy> Client::policy() const {
  auto out = std::make_unique<policy::PeerPolicy>();
  out->peer = peer;
  out->tunnel_v4 = tunnel_v4;
  out->tunnel_v6 = tunnel_v6;
  out->control = true;
  policy::Authorisation lan;
  lan.id = "lan4";
  lan.resource = "lan4";
  lan.kind = policy::ResourceKind::cidr;
  lan.prefix = *Prefix::parse("203.0.113.0/24");
  out->authorisations.push_back(lan);
  lan.id = lan.resource = "lan6";
  lan.prefix = *Prefix::parse("2001:db8:1a::/64");
  out->authorisations.push_back(lan);
  policy::Authorisation names;
  names.id = names.resource = "names";
  names.kind = policy::ResourceKind::dns;
  out->authorisations.push_back(names);
  return out;
}

void Client::send_datagram(const Endpoint& from, const Octets& payload, std::uint16_t worker, std::uint8_t tos) {
  IpOptions options;
  options.tos = tos;
  constexpr MacAddress kRouter = {0x02, 0, 0, 0, 0, 0x99};
  gateway_.receive(kWan, frame(kRouter, kWanMac, udp_packet(from, gateway_address, payload, options)), worker);
}

void Client::flush() {
  while (const auto output = device_->poll_output()) send_datagram(address, output->bytes);
  while (device_->poll_event()) {
  }
}

Instant Client::on_time(Now now) {
  if (device_->poll_timeout().at <= now.monotonic) device_->handle_timeout(now);
  flush();
  return device_->poll_timeout().at;
}

void Client::connect() {
  ASSERT_TRUE(try_connect()) << gateway_.describe_drops();
}

bool Client::try_connect() {
  device_->want_session(there_, gateway_.now());
  flush();
  for (int i = 0; i < 150 && device_->data_path().sending_session(there_, gateway_.now().monotonic) == nullptr; ++i)
    gateway_.run(100ms);
  return device_->data_path().sending_session(there_, gateway_.now().monotonic) != nullptr;
}

void Client::send(const Octets& inner) {
  EXPECT_EQ(device_->send(there_, inner, gateway_.now()), DropReason::none);
  flush();
}

Octets Client::seal(const Octets& inner) {
  Octets buffer(16 + inner.size() + 64);
  std::copy(inner.begin(), inner.end(), buffer.begin() + 16);
  wireguard::Outbound out;
  out.inner = buffer.data() + 16;
  out.length = static_cast<std::uint32_t>(inner.size());
  const auto sealed = device_->seal(there_, {&out, 1}, gateway_.now());
  EXPECT_EQ(sealed.reason, DropReason::none);
  return copy(out.datagram);
}

void Client::send_from(const Endpoint& from, const Octets& inner) {
  send_datagram(from, seal(inner));
}

bool Client::take(PortIndex, const Octets& packet) {
  const IpParse parse = parse_ip(packet);
  if (parse.reason != DropReason::none || parse.view.protocol != ip_protocol::udp) return false;
  const auto* udp = view_as<UdpHeader>(Bytes{packet}.subspan(parse.view.header_length));
  const Endpoint to{ip_destination(packet, parse.view), udp->destination_port.host()};
  if (to != address && std::find(more_addresses.begin(), more_addresses.end(), to) == more_addresses.end())
    return false;
  if (std::find(dead.begin(), dead.end(), to) != dead.end()) return true;
  Octets payload(packet.begin() + parse.view.header_length + 8, packet.begin() + parse.view.total_length);
  const Octets datagram = payload;
  const Path from{to, {ip_source(packet, parse.view), udp->source_port.host()}, 0};
  const auto result = device_->handle_datagram(payload, from, gateway_.now());
  // Several clients may share an address; what this one cannot use is another's.
  if (result.reason == DropReason::wg_unknown_index || result.reason == DropReason::wg_mac1) return false;
  datagrams.push_back(datagram);
  if (result.reason == DropReason::wg_keepalive) ++keepalives;
  if (!result.inner.empty()) {
    received.push_back(copy(result.inner));
    received_from.push_back(to);
  }
  flush();
  return true;
}

}  // namespace penstock::gateway::test
