#include "tests/model/system/data_plane.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <set>

#include "dataplane/gateway/messages.h"
#include "dataplane/rpc/convert.h"
#include "dataplane/runtime/peer_config.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Duration kUseInterval = 10s;  // as the engine's
constexpr std::uint16_t kRoom = 2048;
constexpr std::size_t kResendBlocks = 64;

}  // namespace

// ---- buffers ----

PacketBuffers::~PacketBuffers() {
  for (Packet* packet : all_) {
    packet->~Packet();
    std::free(packet);
  }
}

Packet* PacketBuffers::allocate() {
  constexpr std::size_t kSize = sizeof(Packet) + kMinHeadroom + kRoom + kMinTailroom;
  Packet* packet;
  if (free_.empty()) {
    packet = static_cast<Packet*>(std::aligned_alloc(alignof(Packet), (kSize + 63) / 64 * 64));
    all_.push_back(packet);
  } else {
    packet = free_.back();
    free_.pop_back();
  }
  packet = new (packet) Packet;
  packet->data = reinterpret_cast<std::uint8_t*>(packet + 1) + kMinHeadroom;
  packet->headroom = kMinHeadroom;
  packet->tailroom = kRoom + kMinTailroom;
  ++live_;
  return packet;
}

Packet* PacketBuffers::with(Bytes bytes, PortIndex port) {
  Packet* packet = allocate();
  packet->append(static_cast<std::uint16_t>(bytes.size()));
  if (!bytes.empty()) std::memcpy(packet->data, bytes.data(), bytes.size());
  packet->port = port;
  return packet;
}

void PacketBuffers::release(Packet* packet) {
  --live_;
  free_.push_back(packet);
}

// ---- life ----

DataPlane::DataPlane(const Config& config, Random& random, Now now)
    : random_(random), now_(now), instance_(config.instance), policies_(config.max_peers),
      next_use_report_(now.monotonic) {
  if (const auto error = gateway::Configuration::build(config.path, configuration_)) std::abort();
  public_key_ = *wireguard::derive_public_key(config.key);
  wireguard::DeviceConfig device;
  device.private_key = config.key;
  device.max_peers = config.max_peers;
  device.traffic_writers = 2;
  device.mtu = configuration_.inner_mtu;
  device.activity_granularity = 100ms;
  device.aead = "openssl";
  slow_ = std::make_unique<gateway::SlowPath>(configuration_, device, policies_, neighbours_, buffers_, random_, now);

  nat::TranslatorConfig translation;
  for (const IpAddress& source : configuration_.nat.source_addresses)
    (source.is_v4() ? translation.source_v4 : translation.source_v6).push_back(source);
  configuration_.ours.for_each(
      [&](const gateway::AddressSet::Entry& entry) { translation.own_addresses.push_back(entry.address); });
  translation.reserved_udp_port = configuration_.tunnel.listen_port;
  translation.max_flows = config.max_flows;
  translation.max_flows_per_peer = config.max_flows;
  translation.max_peers = static_cast<std::uint32_t>(config.max_peers);
  translation.mtu_inside = configuration_.inner_mtu;
  translator_ = std::make_unique<nat::Translator>(translation, random_, buffers_);
  aead_ = wireguard::make_aead_context("openssl");
  worker_ = std::make_unique<gateway::Worker>();
  worker_->now = now;
  worker_->configuration = &configuration_;
  worker_->tunnels = &slow_->tunnels().data_path();
  worker_->aead = aead_.get();
  worker_->translator = translator_.get();
  worker_->policies = &policies_;
  worker_->neighbours = &neighbours_;
  worker_->packets = &buffers_;
  resend_gates_ = std::make_unique<gateway::ResendGates>(config.max_peers);
  resend_ = std::make_unique<gateway::ResendStore>(*resend_gates_, config.max_peers, kResendBlocks);
  worker_->resend = resend_.get();

  std::vector<IpAddress> own = translation.own_addresses;
  runtime::PolicyStore::Limits limits;
  limits.max_peers = static_cast<std::uint32_t>(config.max_peers);
  store_ = std::make_unique<runtime::PolicyStore>(*this, runtime::PoolsSpec{}, limits, own);
  settle();
}

DataPlane::~DataPlane() {
  for (PeerIndex peer = 0; peer < policies_.size(); ++peer) delete policies_.publish(peer, nullptr);
}

// ---- packets ----

void DataPlane::receive(PortIndex port, Bytes frame, Now now) {
  now_ = worker_->now = now;
  PacketBurst burst;
  burst.add(buffers_.with(frame, port));
  gateway::process_rx(*worker_, burst);
  drain_worker();
  settle();
}

void DataPlane::settle() {
  if (settling_) return;
  settling_ = true;
  drain_slow();
  while (!to_slow_.empty() || !to_worker_.empty()) {
    if (!to_slow_.empty()) {
      Packet* packet = to_slow_.front();
      to_slow_.pop_front();
      slow_->handle({&packet, 1}, now_);
      drain_slow();
      continue;
    }
    Packet* packet = to_worker_.front();
    to_worker_.pop_front();
    PacketBurst burst;
    burst.add(packet);
    gateway::process_injected(*worker_, burst);
    drain_worker();
  }
  settling_ = false;
}

void DataPlane::drain_worker() {
  gateway::Outputs& out = worker_->out;
  for (std::size_t port = 0; port < configuration_.ports.size(); ++port) {
    for (Packet* packet : out.tx[port]) {
      if (transmit) transmit(static_cast<PortIndex>(port), packet->bytes());
      buffers_.release(packet);
    }
    out.tx[port].clear();
  }
  for (Packet* packet : out.handover[0]) buffers_.release(packet);
  out.handover[0].clear();
  to_slow_.insert(to_slow_.end(), out.handshake.begin(), out.handshake.end());
  out.handshake.clear();
  to_slow_.insert(to_slow_.end(), out.slow.begin(), out.slow.end());
  out.slow.clear();
  for (Packet* packet : out.exception) buffers_.release(packet);
  out.exception.clear();
  for (Packet* packet : out.dropped) buffers_.release(packet);
  out.dropped.clear();
}

void DataPlane::drain_slow() {
  gateway::SlowOutput& output = slow_->output();
  to_worker_.insert(to_worker_.end(), output.to_workers.begin(), output.to_workers.end());
  output.to_workers.clear();
  for (Packet* packet : output.punt) {
    runtime::Punt punt;
    punt.remote = packet->outer.remote;
    punt.payload.assign(packet->data, packet->data + packet->length);
    if (packet->peer != kNoPeer)
      if (const auto info = slow_->tunnels().peer_info(packet->peer)) punt.peer = info->config.public_key.bytes;
    punts.push_back(rpc::message_of(punt));
    buffers_.release(packet);
  }
  output.punt.clear();
  for (Packet* packet : output.freed) buffers_.release(packet);
  output.freed.clear();
  while (const auto event = slow_->poll_event()) {
    using Kind = runtime::EngineEvent::Kind;
    runtime::EngineEvent told;
    if (const auto* up = std::get_if<gateway::SessionUp>(&*event)) {
      told.kind = Kind::session_up;
      told.peer = up->key;
      told.endpoint = up->endpoint;
    } else if (const auto* down = std::get_if<gateway::SessionDown>(&*event)) {
      told.kind = Kind::session_down;
      told.peer = down->key;
    } else if (const auto* moved = std::get_if<gateway::EndpointChanged>(&*event)) {
      told.kind = Kind::endpoint_changed;
      told.peer = moved->key;
      told.endpoint = moved->endpoint;
    } else if (const auto* mapped = std::get_if<gateway::MappedAddressChanged>(&*event)) {
      told.kind = Kind::mapped_address_changed;
      told.server = mapped->server;
      told.endpoint = mapped->mapped;
      mapped_[mapped->server] = rpc::message_of(told);
    } else if (const auto* wanted = std::get_if<gateway::TranslationWanted>(&*event)) {
      told.kind = Kind::translation_wanted;
      told.peer = wanted->key;
      told.address = wanted->proxy_address;
    } else {
      continue;
    }
    events.push_back(rpc::message_of(told));
  }
}

// ---- time ----

Instant DataPlane::deadline(WallTime wall, Instant now) const {
  Instant next = std::min({slow_->poll_timeout().at, translator_->poll_timeout(), resend_->next(), next_use_report_});
  if (const auto expiry = store_->next_expiry()) {
    const auto seconds = static_cast<std::int64_t>(expiry->seconds) - static_cast<std::int64_t>(wall.seconds);
    const Duration left = std::chrono::seconds{std::clamp<std::int64_t>(seconds, -1, 86400)} +
                          Duration{static_cast<std::int64_t>(expiry->nanoseconds) - wall.nanoseconds};
    next = std::min(next, now + std::max(left, Duration{}));
  }
  return next;
}

const char* DataPlane::deadline_reason() const {
  return slow_->poll_timeout().why;
}

void DataPlane::timeout(Now now) {
  now_ = worker_->now = now;
  if (slow_->poll_timeout().at <= now.monotonic) slow_->handle_timeout(now);
  gateway::end_of_loop(*worker_);
  drain_worker();
  if (const auto expiry = store_->next_expiry(); expiry && *expiry <= now.wall) store_->expire(now.wall);
  if (now.monotonic >= next_use_report_) report_use();
  settle();
}

void DataPlane::report_use() {
  next_use_report_ = now_.monotonic + kUseInterval;
  std::set<std::pair<PeerIndex, std::uint32_t>> used;
  translator_->for_each_flow(now_, [&](const nat::FlowInfo& flow) {
    if (flow.translation_tag != 0 && flow.idle <= kUseInterval) used.emplace(flow.peer, flow.translation_tag);
  });
  runtime::EngineEvent event;
  event.kind = runtime::EngineEvent::Kind::translation_use;
  for (const auto& [peer, tag] : used)
    if (const auto* policy = policies_.find(peer))
      for (std::uint32_t i = 0; i < policy->translations.size(); ++i)
        if (policy->translation_tag(i) == tag) event.translations.push_back(policy->translations[i].id);
  if (!event.translations.empty()) events.push_back(rpc::message_of(event));
}

// ---- control ----

void DataPlane::change_peers(std::span<runtime::PeerChange> changes) {
  for (runtime::PeerChange& change : changes) {
    if (change.kind == runtime::PeerChange::Kind::remove) {
      slow_->remove_peer(change.spec.public_key, now_);
      continue;
    }
    const auto peer = slow_->upsert_peer(runtime::peer_config(change.spec), now_);
    if (peer)
      change.peer = *peer;
    else
      change.error = "the table of peers is full or the key is not a valid public key";
  }
}

void DataPlane::publish(std::span<runtime::PolicyPublication> publications, bool) {
  for (runtime::PolicyPublication& publication : publications) {
    if (publication.peer >= policies_.size()) continue;
    delete policies_.publish(publication.peer, publication.policy.release());
    slow_->policy_published(publication.peer, now_);
  }
}

v1::ApplyResponse DataPlane::apply(const v1::ApplyRequest& request, Now now) {
  now_ = worker_->now = now;
  v1::ApplyResponse response;
  const auto failed = [&response](int index, const std::string& why) {
    auto& error = *response.add_errors();
    error.set_index(static_cast<std::uint32_t>(index));
    error.set_message(why);
  };
  for (const v1::Datagram& datagram : request.datagrams()) send(datagram);
  runtime::PolicyStore::Batch batch;
  batch.generation = request.generation();
  batch.begin_sync = request.begin_sync();
  batch.end_sync = request.end_sync();
  std::vector<int> numbers;
  for (int i = 0; i < request.operations_size(); ++i) {
    const v1::Operation& message = request.operations(i);
    if (message.has_stun_servers()) {
      auto servers = rpc::stun_servers_from(message.stun_servers());
      if (auto* list = std::get_if<std::vector<Endpoint>>(&servers)) slow_->set_stun_servers(*list, now);
      continue;
    }
    auto operation = rpc::operation_from(message);
    if (auto* error = std::get_if<rpc::ConvertError>(&operation)) {
      failed(i, *error);
      continue;
    }
    batch.operations.push_back(std::move(std::get<runtime::Operation>(operation)));
    numbers.push_back(i);
  }
  const auto result = store_->apply(batch, runtime::PolicyStore::Origin::control);
  for (const auto& error : result.errors)
    failed(error.index < numbers.size() ? numbers[error.index] : 0, error.message);
  response.set_removed(result.removed);
  gateway::end_of_loop(*worker_);
  drain_worker();
  settle();
  return response;
}

std::vector<v1::DumpItem> DataPlane::dump() const {
  std::vector<v1::DumpItem> out(1);
  runtime::EngineInfo info;
  info.public_key = public_key_.bytes;
  info.listen_port = configuration_.tunnel.listen_port;
  info.tunnel_addresses = configuration_.tunnel.addresses;
  info.source_addresses = configuration_.nat.source_addresses;
  for (const auto& port : configuration_.ports)
    for (const auto& address : port.addresses) info.own_prefixes.emplace_back(address.address, address.prefix_length);
  info.instance = instance_;
  *out[0].mutable_info() = rpc::message_of(info, store_->generation());
  for (const auto& spec : store_->peers()) *out.emplace_back().mutable_peer() = rpc::message_of(spec);
  for (const auto& spec : store_->authorisations()) *out.emplace_back().mutable_authorisation() = rpc::message_of(spec);
  for (const auto& spec : store_->translations()) *out.emplace_back().mutable_translation() = rpc::message_of(spec);
  return out;
}

std::vector<v1::Event> DataPlane::standing() const {
  std::vector<v1::Event> out;
  for (const auto& spec : store_->peers()) {
    const auto index = slow_->find_peer(spec.public_key);
    if (!index || slow_->tunnels().data_path().sending_session(*index, now_.monotonic) == nullptr) continue;
    runtime::EngineEvent up;
    up.kind = runtime::EngineEvent::Kind::session_up;
    up.peer = spec.public_key;
    if (const auto endpoint = slow_->tunnels().data_path().endpoint(*index)) up.endpoint = endpoint->remote;
    out.push_back(rpc::message_of(up));
  }
  for (const auto& [server, event] : mapped_) out.push_back(event);
  return out;
}

void DataPlane::send(const v1::Datagram& datagram) {
  const std::string& payload = datagram.payload();
  for (const Endpoint& remote : rpc::remotes_from(datagram))
    (void)slow_->send_datagram(remote, {reinterpret_cast<const std::uint8_t*>(payload.data()), payload.size()}, now_);
}

void DataPlane::punt(const v1::PuntFromControl& message, Now now) {
  now_ = worker_->now = now;
  const auto bytes = [](const std::string& text) {
    return Bytes{reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  };
  if (message.has_tunnel_control()) {
    if (const auto peer = rpc::key_from(message.tunnel_control().peer()))
      if (const auto index = slow_->find_peer(*peer))
        (void)slow_->send_control(*index, bytes(message.tunnel_control().payload()), now);
  } else if (message.has_datagram()) {
    send(message.datagram());
  }
  settle();
}

// ---- looking inside ----

std::size_t DataPlane::flows() const {
  std::size_t count = 0;
  translator_->for_each_flow(now_, [&count](const nat::FlowInfo&) { ++count; });
  return count;
}

std::uint64_t DataPlane::drops(DropReason reason) const {
  const auto index = static_cast<std::size_t>(reason);
  return slow_->drops()[index] + worker_->counters.drops[index];
}

std::string DataPlane::describe_drops() const {
  std::string out = "dropped:";
  for (std::size_t reason = 0; reason < kDropReasonCount; ++reason)
    if (const std::uint64_t count = drops(static_cast<DropReason>(reason)); count != 0)
      out.append(" ").append(name_of(static_cast<DropReason>(reason))).append("=").append(std::to_string(count));
  return out;
}

}  // namespace penstock::model
