#include <algorithm>
#include <utility>

#include "dataplane/core/wireguard/probe.h"
#include "tests/model/tunnel_nodes.h"

namespace penstock::model {

using namespace std::chrono_literals;

namespace {

const Endpoint kClientSocket{IpAddress::v4(0), 41000};
const Endpoint kClientSocket6{IpAddress{}, 41000};

}  // namespace

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
  device_.set_handshake_paths(*peer_, connectivity.handshake_paths(kGateway), now);
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

void TunnelClient::unreachable(const Endpoint& remote, Bytes, Now now) {
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
          device_.set_handshake_paths(*peer_, connectivity.handshake_paths(kGateway), now);
          if (!session_ && !waiting_.empty()) device_.want_session(*peer_, now);
          break;
        case Kind::punched:
          if (peer_) device_.path_opened(*peer_, event->path, now);
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

}  // namespace penstock::model
