#include "perf/generator/clients.h"

#include <cstdio>
#include <cstdlib>

namespace penstock::generator {
namespace {

constexpr std::uint32_t kLargestInner = 9000;

}  // namespace

Clients::Clients(const Options& options, Random& random, Now now)
    : gateway_(options.gateway),
      first_address_(options.wan_address),
      addresses_(options.wan_addresses),
      aead_(wireguard::make_aead_context(options.aead)) {
  if (!aead_) {
    std::fprintf(stderr, "penstock-generator: no such AEAD here: %s\n", options.aead.c_str());
    std::exit(2);
  }
  clients_.resize(options.plain ? 0 : options.peers);
  for (std::uint32_t i = 0; i < clients_.size(); ++i) {
    Client& client = clients_[i];
    client.identity = test_peer(options.seed, options.first_peer + i);
    client.endpoint = {IpAddress::v4(first_address_.v4_value() + i % addresses_),
                       static_cast<std::uint16_t>(kFirstPort + i / addresses_)};
    wireguard::DeviceConfig config;
    config.private_key = client.identity.private_key;
    config.max_peers = 1;
    config.mtu = kLargestInner;
    config.activity_granularity = std::chrono::milliseconds(100);
    config.aead = options.aead;
    client.device = std::make_unique<wireguard::Device>(config, random);
    wireguard::PeerConfig gateway;
    gateway.public_key = options.gateway_key;
    gateway.endpoints = {gateway_};
    client.peer = client.device->add_peer(gateway, now).peer;
  }
}

std::optional<std::size_t> Clients::client_at(const Endpoint& local) const {
  if (!local.address.is_v4() || local.port < kFirstPort) return std::nullopt;
  const std::uint32_t address = local.address.v4_value() - first_address_.v4_value();
  const std::size_t client = std::size_t{address} + std::size_t{addresses_} * (local.port - kFirstPort);
  if (address >= addresses_ || client >= clients_.size()) return std::nullopt;
  return client;
}

void Clients::want_sessions(Now now, Duration older_than) {
  for (Client& client : clients_) {
    client.asked = client.made == Instant{} || now.monotonic - client.made > older_than;
    if (!client.asked) continue;
    client.device->drop_sessions(client.peer, now);
    client.device->want_session(client.peer, now);
  }
}

std::size_t Clients::missing(Now now) const {
  std::size_t out = 0;
  for (const Client& client : clients_)
    if (client.asked || client.device->data_path().sending_session(client.peer, now.monotonic) == nullptr) ++out;
  return out;
}

void Clients::handle(std::size_t index, Bytes datagram, Now now) {
  Client& client = clients_[index];
  (void)client.device->handle_handshake(datagram, {client.endpoint, gateway_}, now);
  while (const auto event = client.device->poll_event()) {
    if (event->type != wireguard::EventType::session_up && event->type != wireguard::EventType::session_renewed)
      continue;
    client.asked = false;
    client.made = now.monotonic;
  }
}

void Clients::handle_timeouts(Now now) {
  for (Client& client : clients_)
    if (client.device->poll_timeout().at <= now.monotonic) client.device->handle_timeout(now);
}

std::optional<Clients::Output> Clients::poll_output() {
  for (std::size_t tried = 0; tried < clients_.size(); ++tried) {
    const std::size_t client = next_output_;
    if (auto output = clients_[client].device->poll_output()) return Output{std::move(output->bytes), client};
    next_output_ = (next_output_ + 1) % clients_.size();
  }
  return std::nullopt;
}

std::uint32_t Clients::prepare(std::size_t index, std::uint8_t* inner, std::uint32_t length, wireguard::AeadJob& job,
                               Now now) {
  Client& client = clients_[index];
  wireguard::DataPath& path = client.device->data_path();
  wireguard::Session* session = path.sending_session(client.peer, now.monotonic);
  if (session == nullptr) return 0;
  const std::uint64_t counter = wireguard::DataPath::reserve_counters(*session, 1);
  if (counter == wireguard::kNoCounter) return 0;
  const std::uint32_t padded = wireguard::padded_length(length, kLargestInner);
  wireguard::prepare_seal(*session, counter, inner, length, padded, job);
  return static_cast<std::uint32_t>(wireguard::kDataOverhead) + padded;
}

MutableBytes Clients::open(std::size_t index, MutableBytes datagram) {
  if (wireguard::classify(datagram) != wireguard::MessageType::data) return {};
  const auto* header = reinterpret_cast<const wireguard::DataHeader*>(datagram.data());
  const auto* session = clients_[index].device->data_path().find_session(header->receiver.get());
  if (session == nullptr) return {};
  wireguard::AeadJob job;
  wireguard::prepare_open(*session, datagram, job);
  aead_->open({&job, 1});
  MutableBytes inner;
  if (!job.ok || wireguard::trim_padding({job.data, job.length}, inner) != DropReason::none) return {};
  return inner;
}

}  // namespace penstock::generator
