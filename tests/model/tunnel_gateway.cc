#include <algorithm>
#include <utility>

#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"
#include "tests/model/tunnel_nodes.h"

namespace penstock::model {

using namespace std::chrono_literals;

namespace {

const Endpoint kGatewaySocket{IpAddress::v4(0), 51820};
const Endpoint kGatewaySocket6{IpAddress{}, 51820};

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

}  // namespace

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

}  // namespace penstock::model
