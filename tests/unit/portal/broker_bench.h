// A Broker under virtual time, with clients and gateways that keep what they were told.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/core/broker/broker.h"

namespace penstock::broker {

inline Key key_of(std::uint8_t fill) {
  Key key{};
  key.fill(fill);
  return key;
}

inline BrokerConfig basic_config() {
  BrokerConfig config;
  config.sites = {"hq", "lab"};
  config.gateways["gw1"] = {"hq", sha256("token-gw1")};
  config.gateways["gw2"] = {"hq", sha256("token-gw2")};
  config.clients["alice"] = {sha256("token-alice"), {"staff"}, {}};
  config.clients["bob"] = {sha256("token-bob"), {"guests"}, {}};
  const auto add = [&](const std::string& id, v1::ResourceKind kind, const std::string& what) {
    v1::Resource resource;
    resource.set_id(id);
    resource.set_site("hq");
    resource.set_kind(kind);
    if (kind == v1::RESOURCE_KIND_DNS)
      resource.set_pattern(what);
    else
      *resource.mutable_prefix() = to_proto(*Prefix::parse(what));
    config.resources[id] = resource;
  };
  add("corp", v1::RESOURCE_KIND_DNS, "**.corp.example");
  add("printer", v1::RESOURCE_KIND_ADDRESS, "203.0.113.200");
  add("vault", v1::RESOURCE_KIND_ADDRESS, "203.0.113.99");
  config.policies.push_back({"staff", "corp", {}});
  config.policies.push_back({"staff", "printer", {}});
  config.policies.push_back({"staff", "vault", {{*Prefix::parse("203.0.113.0/24")}, {}, {}}});
  config.relays.push_back({"r1", {*Endpoint::parse("198.51.100.20:3478")}, "penstock", "relay-secret", {}});
  return config;
}

struct Request {
  std::string resource = "printer";
  std::string id = "q1";
  std::vector<std::string> connected = {};
  std::vector<std::string> unreachable = {};
  std::vector<std::string> names = {};
  std::vector<std::string> candidates = {};
};

class Bench {
 public:
  explicit Bench(BrokerConfig config = basic_config()) { start(std::move(config)); }

  // A new process on what the old one persisted.
  void start(BrokerConfig config) {
    broker = std::make_unique<Broker>(std::move(config), "portal secret", disk, now);
    to_client.clear();
    to_gateway.clear();
    drain();
  }

  void drain() {
    while (auto output = broker->poll_output()) {
      if (auto* m = std::get_if<SendToClient>(&*output)) to_client[m->connection].push_back(m->message);
      if (auto* m = std::get_if<SendToGateway>(&*output)) to_gateway[m->connection].push_back(m->message);
      if (auto* m = std::get_if<Close>(&*output)) closed[m->connection] = *m;
      if (auto* m = std::get_if<Persist>(&*output)) {
        if (m->value.empty())
          disk.erase(m->key);
        else
          disk[m->key] = m->value;
      }
      if (auto* m = std::get_if<Note>(&*output)) notes.push_back(m->text);
    }
  }

  void advance(Duration by) {
    const Instant until = now.monotonic + by;
    while (broker->poll_timeout().at <= until) {
      set_time(std::max(now.monotonic, broker->poll_timeout().at));
      broker->handle_timeout(now);
      ASSERT_GT(broker->poll_timeout().at, now.monotonic) << "a fired timer was not cleared";
      drain();
    }
    set_time(until);
  }
  void set_time(Instant to) {
    const std::uint64_t total = now.wall.nanoseconds + static_cast<std::uint64_t>((to - now.monotonic).count());
    now.wall.seconds += total / 1'000'000'000;
    now.wall.nanoseconds = static_cast<std::uint32_t>(total % 1'000'000'000);
    now.monotonic = to;
  }

  ConnectionId join_client(const std::string& id, std::uint8_t key = 1, const std::string& from = "198.51.100.30:50000",
                           ProtocolVersion version = {1, 1}) {
    const ConnectionId connection = ++next_connection;
    broker->handle_connected(connection, Role::client, id, *Endpoint::parse(from), now);
    v1::ClientToPortal hello;
    *hello.mutable_hello()->mutable_protocol_version() = to_proto(version);
    hello.mutable_hello()->set_public_key(std::string{as_text(key_of(key))});
    broker->handle_message(connection, hello, now);
    drain();
    return connection;
  }

  ConnectionId join_gateway(const std::string& id, std::uint8_t key = 101, ProtocolVersion version = {1, 1}) {
    const ConnectionId connection = ++next_connection;
    broker->handle_connected(connection, Role::gateway, id, *Endpoint::parse("198.51.100.40:40000"), now);
    v1::GatewayToPortal hello;
    *hello.mutable_hello()->mutable_protocol_version() = to_proto(version);
    hello.mutable_hello()->set_public_key(std::string{as_text(key_of(key))});
    hello.mutable_hello()->set_tunnel_port(51820);
    *hello.mutable_hello()->add_candidates() =
        to_proto(*Endpoint::parse("198.51.100.194:51820"), v1::CANDIDATE_KIND_HOST);
    broker->handle_message(connection, hello, now);
    drain();
    return connection;
  }

  void request(ConnectionId connection, const Request& what) {
    v1::ClientToPortal message;
    v1::RequestConnection& request = *message.mutable_request_connection();
    request.set_request_id(what.id);
    request.set_resource(what.resource);
    for (const auto& gateway : what.connected) request.add_connected_gateways(gateway);
    for (const auto& gateway : what.unreachable) request.add_unreachable_gateways(gateway);
    std::uint32_t proxy = 0x64600001;
    for (const auto& name : what.names) {
      request.add_names()->set_name(name);
      request.mutable_names(request.names_size() - 1)->set_proxy_v4(to_wire(IpAddress::v4(proxy++)));
    }
    for (const auto& text : what.candidates)
      *request.add_candidates() = to_proto(*Endpoint::parse(text), v1::CANDIDATE_KIND_HOST);
    broker->handle_message(connection, message, now);
    drain();
  }

  // The last Authorize that went to this gateway.
  const v1::Authorize* authorize(ConnectionId gateway) {
    auto& messages = to_gateway[gateway];
    for (auto it = messages.rbegin(); it != messages.rend(); ++it)
      if (it->has_authorize()) return &it->authorize();
    return nullptr;
  }
  void answer(ConnectionId gateway, bool ok = true, std::string error = {}) {
    const v1::Authorize* asked = authorize(gateway);
    ASSERT_NE(asked, nullptr);
    v1::GatewayToPortal message;
    message.mutable_authorize_result()->set_request_id(asked->request_id());
    message.mutable_authorize_result()->set_authorisation(asked->authorisation());
    message.mutable_authorize_result()->set_ok(ok);
    message.mutable_authorize_result()->set_error(std::move(error));
    broker->handle_message(gateway, message, now);
    drain();
  }

  template <typename Has>
  std::size_t count_client(ConnectionId connection, Has has) {
    std::size_t count = 0;
    for (const auto& message : to_client[connection]) count += has(message) ? 1 : 0;
    return count;
  }
  const v1::ConnectionGranted* granted(ConnectionId connection) {
    auto& messages = to_client[connection];
    for (auto it = messages.rbegin(); it != messages.rend(); ++it)
      if (it->has_connection_granted()) return &it->connection_granted();
    return nullptr;
  }
  // Reason and detail of the last refusal.
  v1::ConnectionRefused refusal(ConnectionId connection) {
    auto& messages = to_client[connection];
    if (!messages.empty() && messages.back().has_connection_refused()) return messages.back().connection_refused();
    return {};
  }
  std::size_t revocations(ConnectionId gateway) {
    std::size_t count = 0;
    for (const auto& message : to_gateway[gateway]) count += message.has_revoke() ? 1 : 0;
    return count;
  }
  const v1::GatewayWelcome& gateway_welcome(ConnectionId gateway) { return to_gateway[gateway].front().welcome(); }
  const v1::ClientWelcome& client_welcome(ConnectionId client) { return to_client[client].front().welcome(); }

  // Alice with a standing grant.
  void connect_alice(ConnectionId& client, ConnectionId& gateway, const Request& what = {}) {
    gateway = join_gateway("gw1");
    client = join_client("alice");
    request(client, what);
    answer(gateway);
    ASSERT_NE(granted(client), nullptr);
  }

  Now now{Instant{std::chrono::hours{1}}, {1'800'000'000, 0}};
  std::unique_ptr<Broker> broker;
  std::map<ConnectionId, std::vector<v1::PortalToClient>> to_client;
  std::map<ConnectionId, std::vector<v1::PortalToGateway>> to_gateway;
  std::map<ConnectionId, Close> closed;
  std::map<std::string, std::string> disk;
  std::vector<std::string> notes;
  ConnectionId next_connection = 0;
};

}  // namespace penstock::broker
