// A client agent, a gateway and a portal in one thread under virtual time. The gateway is a second wireguard::Device
// that answers probes and in-tunnel control; datagrams cross without delay unless a test's filter drops them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/core/client_agent/client_agent.h"
#include "controlplane/core/client_agent/control_channel.h"
#include "controlplane/core/convert.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/messages.h"
#include "dataplane/core/wireguard/probe.h"
#include "tests/unit/client/packets.h"

namespace penstock::client::testing {

using namespace std::chrono_literals;

inline const Endpoint kSocket = *Endpoint::parse("0.0.0.0:5000");
inline const Endpoint kClientHost = *Endpoint::parse("198.51.100.10:5000");
inline constexpr const char* kClient4 = "100.64.0.2";
inline constexpr const char* kClient6 = "fd00:2021:1111::2";

inline wireguard::PrivateKey private_key(std::uint8_t n) {
  wireguard::PrivateKey key;
  key.bytes.fill(n);
  return key;
}

class Gateway {
 public:
  Gateway(std::string gateway_id, const char* at, std::uint8_t key, Random& random)
      : id(std::move(gateway_id)), endpoint(*Endpoint::parse(at)), key_(key), random_(random) {
    restart();
  }

  // Forgets every session and peer, as a process that was started anew.
  void restart() {
    wireguard::DeviceConfig config;
    config.private_key = private_key(key_);
    device = std::make_unique<wireguard::Device>(config, random_);
  }

  void authorise(const wireguard::PublicKey& client, const wireguard::PresharedKey& psk, Now now) {
    wireguard::PeerConfig config;
    config.public_key = client;
    config.preshared_key = psk;
    if (const auto known = device->find_peer(client)) {
      device->update_peer(*known, config, now);
    } else {
      device->add_peer(config, now);
    }
  }

  void handle(std::vector<std::uint8_t> datagram, const Endpoint& from, Now now) {
    const auto type = wireguard::classify(datagram);
    if (type == wireguard::MessageType::initiation) ++initiations;
    if (type != wireguard::MessageType::data) {
      device->handle_handshake(datagram, Path{endpoint, from, 0}, now);
      return;
    }
    const auto received = device->handle_datagram(datagram, Path{endpoint, from, 0}, now);
    if (received.reason != DropReason::none) return;
    if (!wireguard::is_control_packet(received.inner)) {
      packets.emplace_back(received.inner.begin(), received.inner.end());
      return;
    }
    const auto control = wireguard::parse_control(received.inner);
    if (!control) return;
    if (control->type == wireguard::ControlType::probe) {
      const auto reply = wireguard::make_probe_packet(wireguard::reply_to(*wireguard::parse_probe(control->payload)),
                                                      wireguard::ControlDirection::to_client);
      device->send(received.peer, reply, now);
      return;
    }
    v1::Control message;
    if (control->type != wireguard::ControlType::message ||
        !message.ParseFromArray(control->payload.data() + 1, static_cast<int>(control->payload.size() - 1)))
      return;
    if (message.reply()) {
      ++acknowledged;
      return;
    }
    answer(received.peer, message, now);
  }

  void answer(PeerIndex peer, const v1::Control& message, Now now) {
    v1::Control reply;
    if (message.has_resolve_name()) {
      ++resolve_requests;
      const std::string& name = message.resolve_name().name();
      const auto state = names.find(name);
      reply.mutable_name_status()->set_resource(message.resolve_name().resource());
      reply.mutable_name_status()->set_name(name);
      reply.mutable_name_status()->set_ttl_seconds(10);
      reply.mutable_name_status()->set_state(state == names.end() ? v1::NameStatus::STATE_ACTIVE : state->second);
      for (const std::string& address : real_addresses)
        reply.mutable_name_status()->add_addresses(to_wire(ip(address)));
    } else if (message.has_dns_query()) {
      dns_queries.push_back(message.dns_query());
      // The question comes back as an empty answer, in two pieces, the second first.
      std::string dns_answer = message.dns_query().message();
      dns_answer[2] = static_cast<char>(dns_answer[2] | 0x80);
      const std::size_t half = dns_answer.size() / 2;
      for (const std::uint32_t piece : {1U, 0U}) {
        reply.mutable_dns_answer()->set_message(piece == 0 ? dns_answer.substr(0, half) : dns_answer.substr(half));
        reply.mutable_dns_answer()->set_piece(piece);
        reply.mutable_dns_answer()->set_pieces(2);
        send_control(peer, message.id(), true, reply, now);
      }
      return;
    } else {
      reply.mutable_acknowledge();
    }
    send_control(peer, message.id(), true, reply, now);
  }

  void send_control(PeerIndex peer, std::uint64_t message_id, bool is_reply, v1::Control message, Now now) {
    message.set_id(message_id);
    message.set_reply(is_reply);
    device->send(peer, make_control_packet(message, wireguard::ControlDirection::to_client), now);
  }

  // As from the LAN: to the only client.
  void send(const std::vector<std::uint8_t>& packet, Now now) { device->send(0, packet, now); }

  std::string id;
  Endpoint endpoint;
  std::unique_ptr<wireguard::Device> device;
  bool deaf = false;
  int initiations = 0;
  int resolve_requests = 0;
  int acknowledged = 0;
  std::vector<std::vector<std::uint8_t>> packets;
  std::map<std::string, v1::NameStatus::State> names;
  std::vector<std::string> real_addresses = {"203.0.113.80"};  // of every name
  std::vector<v1::DnsQuery> dns_queries;

 private:
  std::uint8_t key_;
  Random& random_;
};

class Network {
 public:
  explicit Network(ProtocolVersion protocol = kProtocolVersion) : now{Instant{1h}, WallTime{1'800'000'000, 0}} {
    ClientAgentConfig config;
    config.private_key = private_key(1);
    config.hostname = "laptop";
    config.protocol = protocol;
    config.paths.forbidden = {};
    agent = std::make_unique<ClientAgent>(config, random);
    client_key = *wireguard::derive_public_key(private_key(1));
    psk.bytes.fill(9);
    gateways.push_back(std::make_unique<Gateway>("gw1", "198.51.100.40:51820", 2, random));
    gateways.push_back(std::make_unique<Gateway>("gw2", "198.51.100.41:51820", 3, random));
    const Endpoint sockets[] = {kSocket};
    const Endpoint hosts[] = {kClientHost};
    agent->handle_local_addresses(sockets, hosts, now);
  }

  Gateway& gw(std::size_t n = 0) { return *gateways[n]; }

  // ---- portal ----
  static v1::Resource dns_resource(const std::string& id, const std::string& pattern) {
    v1::Resource out;
    out.set_id(id);
    out.set_kind(v1::RESOURCE_KIND_DNS);
    out.set_pattern(pattern);
    out.set_site("hq");
    return out;
  }
  static v1::Resource cidr_resource(const std::string& id, const std::string& prefix) {
    v1::Resource out;
    out.set_id(id);
    out.set_kind(v1::RESOURCE_KIND_CIDR);
    *out.mutable_prefix() = to_proto(*Prefix::parse(prefix));
    out.set_site("hq");
    return out;
  }
  void welcome(const std::vector<v1::Resource>& resources) {
    v1::PortalToClient message;
    v1::ClientWelcome& welcome = *message.mutable_welcome();
    welcome.set_client_id("alice");
    welcome.mutable_tunnel()->set_v4(to_wire(ip(kClient4)));
    welcome.mutable_tunnel()->set_v6(to_wire(ip(kClient6)));
    for (const v1::Resource& resource : resources) *welcome.add_resources() = resource;
    agent->handle_portal_message(message, now);
  }
  void connect(const std::vector<v1::Resource>& resources) {
    portal_up = true;
    agent->handle_portal_connected(now);
    welcome(resources);
    pump();
  }
  void disconnect() {
    portal_up = false;
    agent->handle_portal_disconnected(now);
    pump();
  }
  void grant(const v1::RequestConnection& request, Gateway& gateway) {
    if (gateway_is_told) gateway.authorise(client_key, psk, now);
    v1::PortalToClient message;
    v1::ConnectionGranted& granted = *message.mutable_connection_granted();
    granted.set_request_id(request.request_id());
    granted.set_resource(request.resource());
    granted.set_gateway(gateway.id);
    const Bytes key = gateway.device->public_key().view();
    granted.set_gateway_public_key(std::string(key.begin(), key.end()));
    granted.set_preshared_key(std::string(psk.bytes.begin(), psk.bytes.end()));
    *granted.add_candidates() = to_proto(gateway.endpoint, v1::CANDIDATE_KIND_HOST);
    if (lifetime != Duration{}) {
      WallTime expires = now.wall;
      expires.seconds += static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(lifetime).count());
      *granted.mutable_expires() = to_proto(expires);
    }
    agent->handle_portal_message(message, now);
  }
  void refuse(const v1::RequestConnection& request, v1::RefusalReason reason, const std::string& detail = {}) {
    v1::PortalToClient message;
    message.mutable_connection_refused()->set_request_id(request.request_id());
    message.mutable_connection_refused()->set_resource(request.resource());
    message.mutable_connection_refused()->set_reason(reason);
    message.mutable_connection_refused()->set_detail(detail);
    agent->handle_portal_message(message, now);
  }
  void revoke(const std::string& resource, const std::string& gateway) {
    v1::PortalToClient message;
    message.mutable_authorisation_revoked()->set_resource(resource);
    message.mutable_authorisation_revoked()->set_gateway(gateway);
    agent->handle_portal_message(message, now);
    pump();
  }
  void change(const v1::ResourceChange& what) {
    v1::PortalToClient message;
    *message.mutable_resource_change() = what;
    agent->handle_portal_message(message, now);
    pump();
  }

  // ---- applications ----
  void send(const std::vector<std::uint8_t>& packet) {
    const Bytes bytes{packet};
    agent->handle_packets({&bytes, 1}, now);
    pump();
  }
  // The proxy address the stub resolver gives for a name.
  std::string resolve(const std::string& name) {
    dns::Client client;
    client.remote = *Endpoint::parse("127.0.0.1:4000");
    const Bytes reply = agent->handle_query(query(name, 1), client, now);
    if (reply.size() < 16) return "";
    return IpAddress::from_wire(reply.last(reply.size() >= 4 ? 4 : 0)).to_string();
  }
  static std::vector<std::uint8_t> query(const std::string& name, std::uint16_t type) {
    std::vector<std::uint8_t> out = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    std::size_t start = 0;
    while (start <= name.size()) {
      const std::size_t dot = std::min(name.find('.', start), name.size());
      out.push_back(static_cast<std::uint8_t>(dot - start));
      out.insert(out.end(), name.begin() + static_cast<std::ptrdiff_t>(start),
                 name.begin() + static_cast<std::ptrdiff_t>(dot));
      start = dot + 1;
    }
    for (const std::uint8_t byte : {std::uint8_t{0}, static_cast<std::uint8_t>(type >> 8),
                                    static_cast<std::uint8_t>(type), std::uint8_t{0}, std::uint8_t{1}})
      out.push_back(byte);
    return out;
  }

  // ---- time ----
  void pump() {
    for (bool moved = true; moved;) {
      moved = false;
      while (auto message = agent->poll_portal()) {
        moved = true;
        if (!portal_up) continue;
        if (message->has_request_connection()) {
          requests.push_back(message->request_connection());
          if (on_request) on_request(message->request_connection());
        }
        if (message->has_candidate_update()) updates.push_back(message->candidate_update());
      }
      while (auto datagram = agent->poll_datagram()) {
        moved = true;
        ++datagrams;
        for (auto& gateway : gateways) {
          if (datagram->remote != gateway->endpoint || gateway->deaf || (drop && drop(datagram->bytes()))) continue;
          const Bytes bytes = datagram->bytes();
          gateway->handle({bytes.begin(), bytes.end()}, kClientHost, now);
        }
      }
      for (auto& gateway : gateways) {
        while (auto out = gateway->device->poll_output()) {
          moved = true;
          if (gateway->deaf || (drop_back && drop_back(out->bytes))) continue;
          const InDatagram in{out->bytes, kSocket, gateway->endpoint};
          agent->handle_datagrams({&in, 1}, now);
        }
        while (gateway->device->poll_event()) moved = true;
      }
      while (auto packet = agent->poll_packet()) {
        moved = true;
        to_applications.push_back(std::move(*packet));
      }
      while (auto output = agent->poll_dns()) {
        moved = true;
        if (const auto* answer = std::get_if<dns::Answer>(&*output)) dns_answers.push_back(answer->message);
      }
      while (const auto event = agent->poll_event()) {
        moved = true;
        portal_doubts += *event == AgentEvent::portal_suspect ? 1 : 0;
      }
      while (auto line = agent->poll_log()) log.push_back(line->text);
    }
  }
  // Moves time on, stopping at every deadline.
  void advance(Duration by) {
    const Instant until = now.monotonic + by;
    for (;;) {
      Instant next = agent->poll_timeout(now).at;
      for (const auto& gateway : gateways) next = std::min(next, gateway->device->poll_timeout().at);
      if (next > until) break;
      set_time(std::max(next, now.monotonic));
      ++turns;
      if (agent->poll_timeout(now).at <= now.monotonic) agent->handle_timeout(now);
      for (const auto& gateway : gateways)
        if (gateway->device->poll_timeout().at <= now.monotonic) gateway->device->handle_timeout(now);
      pump();
    }
    set_time(until);
  }
  void set_time(Instant at) {
    const Duration by = at - now.monotonic;
    const auto total = Duration{std::chrono::nanoseconds{now.wall.nanoseconds}} + by;
    const auto whole = std::chrono::floor<std::chrono::seconds>(total);
    now.wall.seconds += static_cast<std::uint64_t>(whole.count());
    now.wall.nanoseconds = static_cast<std::uint32_t>((total - whole).count());
    now.monotonic = at;
  }

  // ICMP type and code of the packets the client gave to applications, "3/13".
  std::vector<std::string> icmp_errors() const {
    std::vector<std::string> out;
    for (const auto& packet : to_applications) {
      const bool v6 = packet[0] >> 4 == 6;
      const std::uint8_t protocol = v6 ? packet[6] : packet[9];
      if (protocol != (v6 ? ip_protocol::icmpv6 : ip_protocol::icmp)) continue;
      const std::size_t at = v6 ? 40 : 20;
      out.push_back(std::to_string(packet[at]) + "/" + std::to_string(packet[at + 1]));
    }
    return out;
  }

  CountingRandom random;
  Now now;
  std::unique_ptr<ClientAgent> agent;
  std::vector<std::unique_ptr<Gateway>> gateways;
  wireguard::PublicKey client_key;
  wireguard::PresharedKey psk;
  bool portal_up = false;
  int portal_doubts = 0;
  bool gateway_is_told = true;  // whether a grant reaches the gateway too
  Duration lifetime{};
  std::function<void(const v1::RequestConnection&)> on_request;
  std::vector<v1::CandidateUpdate> updates;
  std::function<bool(Bytes)> drop;       // client to gateway: true loses the datagram
  std::function<bool(Bytes)> drop_back;  // gateway to client
  std::vector<v1::RequestConnection> requests;
  std::vector<std::vector<std::uint8_t>> to_applications;
  std::vector<std::vector<std::uint8_t>> dns_answers;
  std::vector<std::string> log;
  std::size_t datagrams = 0;
  std::size_t turns = 0;
};

}  // namespace penstock::client::testing
