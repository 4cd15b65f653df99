#include "tests/unit/gateway/harness.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dataplane/gateway/neighbour_messages.h"
#include "dataplane/gateway/wire.h"

namespace penstock::gateway::test {

wireguard::PrivateKey private_key(std::uint64_t seed) {
  SeededRandom random(seed);
  wireguard::PrivateKey key;
  random.fill(key.bytes);
  return key;
}

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
  translation.keep_source = !configuration.nat.routed.empty();
  translation.max_flows = options.max_flows;
  translation.max_peers = static_cast<std::uint32_t>(policies.size());
  translation.mtu_inside = configuration.inner_mtu;
  translation.mtu_outside = configuration.ports.back().mtu;
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

void Gateway::receive_together(PortIndex port, const std::vector<Octets>& frames, std::size_t burst_size,
                               wireguard::AeadOffers& offers) {
  pending_.push_back([this, port, frames, burst_size, &offers] {
    Worker& worker = *workers[0];
    worker.now = now_;
    Pipeline pipeline(worker, offers);
    PacketBurst burst;
    for (std::size_t i = 0; i < frames.size(); ++i) {
      burst.add(packets.with(frames[i], port));
      if (burst.size() < burst_size && i + 1 < frames.size()) continue;
      pipeline.take(burst);
      drain(worker);
      burst.clear();
    }
    pipeline.finish();
    drain(worker);
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
  for (Packet* packet : output.to_workers) {
    if (kind_of<ToWorker>(*packet) == ToWorker::resend) ++resend_orders;
    pending_.push_back([this, packet] {
      PacketBurst burst;
      burst.add(packet);
      Worker& worker = *workers[packet->rss_worker];
      worker.now = now_;
      process_injected(worker, burst);
      drain(worker);
    });
  }
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

}  // namespace penstock::gateway::test
