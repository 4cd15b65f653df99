#include "tests/model/tunnel_nodes.h"

#include <algorithm>
#include <utility>

#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::model {

using namespace std::chrono_literals;

namespace {

constexpr std::size_t kPacketSize = 28;
const Endpoint kGatewaySocket{IpAddress::v4(0), 51820};
const Endpoint kGatewaySocket6{IpAddress{}, 51820};
const Endpoint kClientSocket{IpAddress::v4(0), 41000};
const Endpoint kClientSocket6{IpAddress{}, 41000};

constexpr unsigned kPunchRounds = 20;
constexpr unsigned kQuickPunches = 10;  // the client's permission at its relay comes a round trip after the grant
constexpr Duration kPunchFirst = 20ms;
constexpr Duration kPunchMost = 1s;
// How long a peer may be silent: its probes come every 100 ms, every second, every 25 s.
constexpr Duration kSilenceBusy = 350ms;
constexpr Duration kSilenceActive = 2500ms;
constexpr Duration kSilenceIdle = 30s;
constexpr Duration kMostSilence = 30s;
constexpr std::size_t kKnownAddresses = 8;

Endpoint socket_of(const Endpoint& remote, const Endpoint& four, const Endpoint& six) {
  return remote.address.is_v4() ? four : six;
}

wireguard::DeviceConfig device_config(const wireguard::PrivateKey& key) {
  wireguard::DeviceConfig out;
  out.private_key = key;
  out.max_peers = 16;
  out.aead = "openssl";
  return out;
}

}  // namespace

std::vector<std::uint8_t> make_packet(std::uint32_t number, bool echo) {
  std::vector<std::uint8_t> out(kPacketSize);
  out[0] = 0x45;
  out[3] = kPacketSize;
  out[8] = 64;
  out[9] = 17;
  out[12] = out[16] = 100;
  out[15] = echo ? 2 : 1;
  std::memcpy(out.data() + 20, &number, 4);
  return out;
}

std::optional<std::uint32_t> packet_number(Bytes inner, bool echo) {
  if (inner.size() != kPacketSize || inner[0] != 0x45 || inner[15] != (echo ? 2 : 1)) return std::nullopt;
  std::uint32_t number;
  std::memcpy(&number, inner.data() + 20, 4);
  return number;
}

std::optional<std::vector<std::uint8_t>> seal_packet(wireguard::Device& device, PeerIndex peer, Bytes inner, Now now) {
  std::vector<std::uint8_t> buffer(wireguard::kDataHeaderSize + inner.size() + wireguard::kPaddingMultiple +
                                   wireguard::kTagSize);
  std::copy(inner.begin(), inner.end(), buffer.begin() + wireguard::kDataHeaderSize);
  wireguard::Outbound out;
  out.inner = buffer.data() + wireguard::kDataHeaderSize;
  out.length = static_cast<std::uint32_t>(inner.size());
  if (device.seal(peer, {&out, 1}, now).reason != DropReason::none) return std::nullopt;
  return std::vector<std::uint8_t>{out.datagram.begin(), out.datagram.end()};
}

// ---- gateway ----

TunnelGateway::TunnelGateway(Network& network, const wireguard::PrivateKey& key, std::vector<Endpoint> stun_servers,
                             std::vector<Endpoint> hosts)
    : network_(network),
      private_key_(key),
      stun_servers_(std::move(stun_servers)),
      hosts_(std::move(hosts)),
      device_holder_(device_config(key), network.random),
      gatherer_(network.random) {
  const Endpoint sockets[] = {kGatewaySocket, kGatewaySocket6};
  const bool v6 = std::any_of(hosts_.begin(), hosts_.end(), [](const Endpoint& e) { return e.address.is_v6(); });
  gatherer_.set_targets(std::span{sockets}.first(v6 ? 2 : 1), stun_servers_, network.time());
  drain(network.now());
}

TunnelGateway::Peer* TunnelGateway::find(PeerIndex index) {
  const auto at = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& p) { return p.index == index; });
  return at == peers_.end() ? nullptr : &*at;
}

std::vector<paths::Candidate> TunnelGateway::candidates(Now now) const {
  std::vector<paths::Candidate> out;
  for (const Endpoint& mapped : gatherer_.reflexive(now.monotonic))
    out.push_back({paths::CandidateKind::server_reflexive, mapped});
  for (const Endpoint& host : hosts_) out.push_back({paths::CandidateKind::host, host});
  return out;
}

void TunnelGateway::authorize(const wireguard::PublicKey& client, const std::vector<paths::Candidate>& candidates,
                              Now now) {
  auto at = std::find_if(peers_.begin(), peers_.end(), [&](const Peer& p) { return p.key == client; });
  if (at == peers_.end()) {
    wireguard::PeerConfig config;
    config.public_key = client;
    config.path_switch = true;
    const auto added = device_.add_peer(config, now);
    if (added.error != wireguard::PeerError::none) return;
    peers_.emplace_back();
    at = peers_.end() - 1;
    at->key = client;
    at->index = added.peer;
  }
  at->candidates.assign(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                     candidates.size(), paths::kMaxCandidates)));
  at->punches = 0;
  at->next_punch = now.monotonic;
  drain(now);
}

void TunnelGateway::restart(Now now) {
  for (Peer& peer : peers_) {
    device_.drop_sessions(peer.index, now);
    peer.seen.clear();
    peer.switch_sequence = 0;
    peer.next_call = kNever;
  }
  drain(now);
}

void TunnelGateway::punch(Peer& peer, Now now) {
  for (const paths::Candidate& candidate : peer.candidates) {
    std::vector<std::uint8_t> bytes(64);
    stun::TransactionId id;
    network_.random.fill(id);
    bytes.resize(stun::build_binding_indication(bytes, id).size());
    outbox.push_back({socket_of(candidate.endpoint, kGatewaySocket, kGatewaySocket6), candidate.endpoint, bytes});
  }
  ++peer.punches;
  const unsigned slow = peer.punches > kQuickPunches ? peer.punches - kQuickPunches : 0;
  const Duration gap = std::min(kPunchMost, kPunchFirst * (1 << std::min(slow, 6U)));
  peer.next_punch = peer.punches < kPunchRounds ? now.monotonic + gap : kNever;
}

// An authenticated keepalive to every address we know of the peer: opens our NAT and shows the peer where we are.
void TunnelGateway::call_everywhere(Peer& peer, Now now) {
  std::set<Endpoint> everywhere{peer.seen.begin(), peer.seen.end()};
  for (const paths::Candidate& candidate : peer.candidates) everywhere.insert(candidate.endpoint);
  bool any = false;
  for (const Endpoint& remote : everywhere)
    any |= device_.send_keepalive(peer.index, Path{socket_of(remote, kGatewaySocket, kGatewaySocket6), remote, 0}, now);
  if (any) ++peer.calls;
  if (!any) peer.next_call = kNever;  // no session: the client starts anew
}

void TunnelGateway::heard(Peer& peer, const Endpoint& from, bool is_data, Now now) {
  peer.last_heard = now.monotonic;
  peer.calls = 0;
  if (is_data) peer.last_data = now.monotonic;
  const Duration since = now.monotonic - peer.last_data;
  peer.silence = since < 2s ? kSilenceBusy : since < 120s ? kSilenceActive : kSilenceIdle;
  peer.next_call = now.monotonic + peer.silence;
  std::erase(peer.seen, from);
  peer.seen.push_front(from);
  if (peer.seen.size() > kKnownAddresses) peer.seen.pop_back();
}

void TunnelGateway::receive(Datagram datagram, Now now) {
  const Endpoint local = socket_of(datagram.from, kGatewaySocket, kGatewaySocket6);
  if (wireguard::classify(datagram.bytes) == wireguard::MessageType::none && stun::looks_like_stun(datagram.bytes)) {
    const auto message = stun::Message::parse(datagram.bytes);
    if (message && message->method() == stun::Method::binding && message->message_class() == stun::Class::success)
      gatherer_.handle_response(*message, local, datagram.from, now.monotonic);
    drain(now);
    return;
  }
  const Path from{local, datagram.from, 0};
  const auto got = device_.handle_datagram(datagram.bytes, from, now);
  Peer* peer = find(got.peer);
  if (peer != nullptr && (got.reason == DropReason::none || got.reason == DropReason::wg_keepalive)) {
    const auto number = got.reason == DropReason::none ? packet_number(got.inner, false) : std::nullopt;
    heard(*peer, datagram.from, number.has_value(), now);
    if (number) {
      if (!received.insert(*number).second) ++duplicates;
      arrival.emplace(*number, now.monotonic);
      if (echoes) {
        const auto endpoint = device_.data_path().endpoint(peer->index);
        if (auto sealed = seal_packet(device_, peer->index, make_packet(*number, true), now); sealed && endpoint)
          outbox.push_back({endpoint->local, endpoint->remote, std::move(*sealed)});
      }
    } else if (got.reason == DropReason::none) {
      const auto control = wireguard::parse_control(got.inner);
      const auto probe = control ? wireguard::parse_probe(control->payload) : std::nullopt;
      if (probe && probe->type == wireguard::ControlType::probe) {
        if (probe->switch_sequence > peer->switch_sequence) {
          peer->switch_sequence = probe->switch_sequence;
          device_.set_endpoint(peer->index, from, now);
        }
        const auto packet =
            wireguard::make_probe_packet(wireguard::reply_to(*probe), wireguard::ControlDirection::to_client);
        if (auto sealed = seal_packet(device_, peer->index, packet, now))
          outbox.push_back({local, datagram.from, std::move(*sealed)});
      }
    }
  }
  drain(now);
}

Instant TunnelGateway::deadline() const {
  Instant out = std::min(gatherer_.poll_timeout().at, device_.poll_timeout().at);
  for (const Peer& peer : peers_) out = std::min({out, peer.next_punch, peer.next_call});
  return out;
}

void TunnelGateway::timeout(Now now) {
  gatherer_.handle_timeout(now.monotonic);
  if (device_.poll_timeout().at <= now.monotonic) device_.handle_timeout(now);
  for (Peer& peer : peers_) {
    if (now.monotonic >= peer.next_punch) punch(peer, now);
    if (now.monotonic >= peer.next_call) {
      call_everywhere(peer, now);
      if (peer.next_call == kNever) continue;
      peer.next_call = now.monotonic + std::min(kMostSilence, peer.silence * (1 << std::min(peer.calls / 3, 8U)));
    }
  }
  drain(now);
}

void TunnelGateway::drain(Now now) {
  bool busy = false;
  bool active = false;
  for (const Peer& peer : peers_) {
    busy = busy || now.monotonic - peer.last_data < 2s;
    active = active || now.monotonic - peer.last_heard < 120s;
  }
  gatherer_.set_pace(busy     ? paths::StunGatherer::Pace::busy
                     : active ? paths::StunGatherer::Pace::active
                              : paths::StunGatherer::Pace::idle,
                     now.monotonic);
  while (gatherer_.poll_moved())
    for (Peer& peer : peers_) call_everywhere(peer, now);
  while (auto transmit = gatherer_.poll_transmit())
    outbox.push_back({transmit->local, transmit->remote, std::move(transmit->bytes)});
  while (auto out = device_.poll_output()) outbox.push_back({out->path.local, out->path.remote, std::move(out->bytes)});
  while (auto event = device_.poll_event()) {
    // A new session may be with a client that was started anew.
    Peer* peer = find(event->peer);
    if (peer != nullptr && event->type == wireguard::EventType::session_up) peer->switch_sequence = 0;
  }
  auto mine = candidates(now);
  if (mine == told_) return;
  told_ = std::move(mine);
  if (candidates_changed) candidates_changed();
}

// ---- client ----

TunnelClient::TunnelClient(Network& network, const Config& config, Introducer& introducer)
    : connectivity({}, network.random),
      network_(network),
      config_(config),
      introducer_(introducer),
      device_(device_config(config.key), network.random) {
  const Now now = network.now();
  roam(config.hosts, now);
  connectivity.handle_relays(config_.relays, now);
  drain(now);
}

void TunnelClient::roam(std::vector<Endpoint> hosts, Now now) {
  config_.hosts = std::move(hosts);
  std::vector<Endpoint> sockets;
  for (const Endpoint& host : config_.hosts) {
    const Endpoint socket = socket_of(host, kClientSocket, kClientSocket6);
    if (std::find(sockets.begin(), sockets.end(), socket) == sockets.end()) sockets.push_back(socket);
  }
  connectivity.handle_local_addresses(sockets, config_.hosts, now);
  drain(now);
}

void TunnelClient::request(Now now) {
  if (last_request_ != Instant::min() && now.monotonic - last_request_ < 2s) return;
  last_request_ = now.monotonic;
  ++requests;
  introducer_.request(*this);
}

void TunnelClient::granted(const wireguard::PublicKey& gateway, const std::vector<paths::Candidate>& candidates,
                           Now now) {
  must_request_ = false;
  if (!peer_) {
    wireguard::PeerConfig config;
    config.public_key = gateway;
    config.path_switch = true;
    peer_ = device_.add_peer(config, now).peer;
    connectivity.add_gateway(kGateway, now);
  }
  connectivity.handle_remote_candidates(kGateway, candidates, now);
  device_.set_handshake_paths(*peer_, connectivity.handshake_paths(kGateway));
  if (!session_ || unreachable_events > 0) device_.want_session(*peer_, now);
  drain(now);
}

void TunnelClient::trickled(const std::vector<paths::Candidate>& candidates, Now now) {
  if (peer_) connectivity.handle_remote_candidates(kGateway, candidates, now);
  drain(now);
}

void TunnelClient::send(std::uint32_t number, Now now) {
  if (session_) {
    if (must_request_) request(now);
    send_sealed(number, now);
  } else {
    if (waiting_.size() < 512) waiting_.push_back(number);
    // The authorisation may still stand although the portal cannot be asked: the handshake is tried all the same.
    if (must_request_) request(now);
    if (peer_) device_.want_session(*peer_, now);
  }
  drain(now);
}

void TunnelClient::send_sealed(std::uint32_t number, Now now) {
  const auto sealed = seal_packet(device_, *peer_, make_packet(number, false), now);
  if (!sealed) return;
  const auto ways = connectivity.data_paths(kGateway, *sealed, now);
  for (const Path& path : ways) transmit(path, *sealed);
}

void TunnelClient::transmit(const Path& path, Bytes datagram) {
  if (auto wrapped = connectivity.wrap(path, datagram))
    outbox.push_back({wrapped->local, wrapped->remote, std::move(wrapped->bytes)});
}

void TunnelClient::receive(Datagram datagram, Now now) {
  const Endpoint local = socket_of(datagram.from, kClientSocket, kClientSocket6);
  const auto incoming = connectivity.handle_datagram(datagram.bytes, local, datagram.from, now);
  if (incoming.reason == DropReason::none) {
    const auto got = device_.handle_datagram(incoming.wireguard, incoming.path, now);
    const bool authentic = got.reason == DropReason::none || got.reason == DropReason::wg_keepalive;
    if (authentic && peer_ && got.peer == *peer_) {
      const auto number = got.inner.empty() ? std::nullopt : packet_number(got.inner, true);
      // The session comes up first, then what it carried.
      drain(now);
      const auto control = got.inner.empty() || number ? std::nullopt : wireguard::parse_control(got.inner);
      if (!control) connectivity.note_received(kGateway, incoming.path, number.has_value(), now);
      if (number) {
        echoed.insert(*number);
        echo_arrival.emplace(*number, now.monotonic);
      } else if (control) {
        connectivity.handle_probe_reply(kGateway, control->payload, incoming.path, now);
      }
    }
  }
  drain(now);
}

void TunnelClient::unreachable(const Endpoint& remote, Now now) {
  connectivity.handle_unreachable_hint(remote, now);
  drain(now);
}

Instant TunnelClient::deadline() const {
  return std::min(connectivity.poll_timeout().at, device_.poll_timeout().at);
}

void TunnelClient::timeout(Now now) {
  if (connectivity.poll_timeout().at <= now.monotonic) connectivity.handle_timeout(now);
  if (device_.poll_timeout().at <= now.monotonic) device_.handle_timeout(now);
  drain(now);
}

void TunnelClient::drain(Now now) {
  for (bool again = true; again;) {
    again = false;
    while (auto transmit = connectivity.poll_transmit()) {
      outbox.push_back({transmit->local, transmit->remote, std::move(transmit->bytes)});
    }
    while (auto out = device_.poll_output()) {
      again = true;
      transmit(out->path, out->bytes);
    }
    while (auto event = device_.poll_event()) {
      again = true;
      if (event->type == wireguard::EventType::session_up || event->type == wireguard::EventType::session_renewed) {
        const bool first = !session_;
        session_ = true;
        connectivity.handle_session_up(kGateway, event->path, now);
        if (!first) continue;
        for (const std::uint32_t number : std::exchange(waiting_, {})) send_sealed(number, now);
      } else if (event->type == wireguard::EventType::session_down) {
        session_ = false;
        connectivity.handle_session_down(kGateway, now);
      } else if (event->type == wireguard::EventType::handshake_failed) {
        must_request_ = true;
      }
    }
    while (auto event = connectivity.poll_event()) {
      again = true;
      using Kind = paths::Event::Kind;
      switch (event->kind) {
        case Kind::send_probe:
          if (auto sealed = seal_packet(device_, *peer_, event->probe, now)) transmit(event->path, *sealed);
          break;
        case Kind::path_changed:
          changes.emplace_back(now.monotonic, event->path);
          if (peer_) device_.set_endpoint(*peer_, event->path, now);
          break;
        case Kind::handshake_paths:
          if (!peer_) break;
          device_.set_handshake_paths(*peer_, connectivity.handshake_paths(kGateway));
          if (!session_ && !waiting_.empty()) device_.want_session(*peer_, now);
          break;
        case Kind::candidates_changed:
          introducer_.client_candidates(*this);
          break;
        case Kind::stalled:
          if (peer_) device_.want_session(*peer_, now);
          request(now);  // so that the gateway punches, should its own NAT have forgotten us
          break;
        case Kind::unreachable:
          ++unreachable_events;
          must_request_ = true;
          break;
        case Kind::relay_refused:
        case Kind::suspect:
          break;
      }
    }
  }
}

// ---- portal ----

void Introducer::request(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + latency, [this, &client] {
    if (!up) return;
    gateway_.authorize(client.key(), client.connectivity.local_candidates(), network_.now());
  });
  network_.schedule(network_.time() + 3 * latency, [this, &client] {
    if (up) client.granted(gateway_.key(), gateway_.candidates(network_.now()), network_.now());
  });
}

void Introducer::client_candidates(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + 2 * latency, [this, &client] {
    if (up && client.session())
      gateway_.authorize(client.key(), client.connectivity.local_candidates(), network_.now());
  });
}

void Introducer::gateway_candidates(TunnelClient& client) {
  if (!up) return;
  network_.schedule(network_.time() + 2 * latency, [this, &client] {
    if (up) client.trickled(gateway_.candidates(network_.now()), network_.now());
  });
}

}  // namespace penstock::model
