// Random histories: whatever happens in whatever order, every connected gateway holds exactly the rights that stand.
#include <gtest/gtest.h>
// before rapidcheck, which needs it
#include <rapidcheck/gtest.h>

#include "controlplane/core/broker/decision.h"
#include "tests/unit/portal/broker_bench.h"

namespace penstock::broker {
namespace {

using namespace std::chrono_literals;

// Gateways that do as they are told, some slowly.
class World : public Bench {
 public:
  void settle() {
    drain();
    for (auto& [connection, messages] : to_gateway) {
      auto& seen = seen_[connection];
      while (seen < messages.size()) take(connection, messages[seen++]);
    }
    drain();
  }

  void take(ConnectionId connection, const v1::PortalToGateway& message) {
    if (closed.contains(connection) || !gateway_of.contains(connection)) return;
    auto& rights = held[connection];
    if (message.has_welcome()) {
      rights.clear();
      for (const auto& it : message.welcome().authorisations())
        rights[it.authorisation()] = it.resource().SerializeAsString();
    } else if (message.has_authorize()) {
      rights[message.authorize().authorisation()] = message.authorize().resource().SerializeAsString();
      v1::GatewayToPortal answer;
      answer.mutable_authorize_result()->set_request_id(message.authorize().request_id());
      answer.mutable_authorize_result()->set_authorisation(message.authorize().authorisation());
      answer.mutable_authorize_result()->set_ok(true);
      if (slow)
        late.emplace_back(connection, answer);
      else
        broker->handle_message(connection, answer, now);
    } else if (message.has_revoke()) {
      rights.erase(message.revoke().authorisation());
    }
  }
  void deliver_late() {
    for (const auto& [connection, answer] : std::exchange(late, {})) broker->handle_message(connection, answer, now);
  }

  std::map<ConnectionId, std::string> gateway_of;
  std::map<ConnectionId, std::map<std::string, std::string>> held;  // right -> resource as told
  std::vector<std::pair<ConnectionId, v1::GatewayToPortal>> late;
  bool slow = false;

 private:
  std::map<ConnectionId, std::size_t> seen_;
};

RC_GTEST_PROP(BrokerProperty, ConnectedGatewaysHoldExactlyWhatStands, ()) {
  World world;
  BrokerConfig config = basic_config();
  std::map<std::string, ConnectionId> clients;
  std::map<std::string, ConnectionId> gateways;
  const std::vector<std::string> resources = {"corp", "printer", "vault"};
  const int steps = *rc::gen::inRange(1, 60);
  for (int step = 0; step < steps; ++step) {
    const std::string client = *rc::gen::element<std::string>("alice", "bob");
    const std::string gateway = *rc::gen::element<std::string>("gw1", "gw2");
    switch (*rc::gen::inRange(0, 9)) {
      case 0:
        if (config.clients.contains(client))
          clients[client] = world.join_client(client, *rc::gen::inRange<std::uint8_t>(1, 3),
                                              *rc::gen::element<std::string>("198.51.100.30:5", "203.0.113.7:5"));
        break;
      case 1:
        gateways[gateway] = world.join_gateway(gateway, *rc::gen::inRange<std::uint8_t>(101, 103));
        world.gateway_of[gateways[gateway]] = gateway;
        break;
      case 2:
        if (clients.contains(client))
          world.request(clients[client], {.resource = *rc::gen::elementOf(resources),
                                          .id = std::to_string(step),
                                          .unreachable = {*rc::gen::element<std::string>("gw1", "gw2", "none")}});
        break;
      case 3:
        if (gateways.contains(gateway)) world.broker->handle_disconnected(gateways[gateway], world.now);
        world.held.erase(gateways[gateway]);
        gateways.erase(gateway);
        break;
      case 4:
        if (clients.contains(client)) world.broker->handle_disconnected(clients[client], world.now);
        clients.erase(client);
        break;
      case 5: {
        const std::string resource = *rc::gen::elementOf(resources);
        const std::string group = *rc::gen::element<std::string>("staff", "guests");
        const auto before = config.policies.size();
        std::erase_if(config.policies, [&](const Policy& it) { return it.resource == resource && it.group == group; });
        if (config.policies.size() == before) config.policies.push_back({group, resource, {}});
        world.broker->reconfigure(config, world.now);
        break;
      }
      case 6:
        config.resources[*rc::gen::elementOf(resources)].set_site(*rc::gen::element<std::string>("hq", "hq", "lab"));
        config.resources[*rc::gen::elementOf(resources)].mutable_filter()->set_icmp_echo(*rc::gen::arbitrary<bool>());
        world.broker->reconfigure(config, world.now);
        break;
      case 7:
        world.slow = *rc::gen::arbitrary<bool>();
        if (!world.slow) world.deliver_late();
        break;
      case 8:
        world.advance(std::chrono::milliseconds{*rc::gen::inRange(0, 5000)});
        break;
    }
    world.settle();
  }
  world.deliver_late();
  world.slow = false;
  world.settle();
  world.advance(10s);  // every request under way comes to its end
  world.settle();
  RC_ASSERT(world.broker->pending_count() == 0u);

  std::size_t held = 0;
  for (const auto& [id, connection] : gateways) {
    if (world.closed.contains(connection)) continue;
    for (const auto& [right, as_told] : world.held[connection]) {
      ++held;
      const std::size_t slash = right.find('/');
      const std::string client = right.substr(0, slash);
      const std::string resource = right.substr(slash + 1);
      RC_ASSERT(judge(config, client, resource, std::nullopt, world.now.wall).allowed);
      RC_ASSERT(config.resources.at(resource).SerializeAsString() == as_told);
      RC_ASSERT(config.resources.at(resource).site() == config.gateways.at(id).site);
    }
  }
  RC_ASSERT(held <= world.broker->grant_count());
  // A new process on the same memory tells the same to the same gateways.
  std::map<std::string, std::set<std::string>> before;
  for (const auto& [id, connection] : gateways)
    for (const auto& [right, as_told] : world.held[connection]) before[id].insert(right);
  std::map<std::string, std::uint8_t> keys;
  for (const auto& actor : world.broker->actors())
    if (actor.role == Role::gateway) keys[actor.id] = static_cast<std::uint8_t>(from_base64(actor.public_key)->front());
  world.start(config);
  for (const auto& [id, connection] : gateways) {
    if (!keys.contains(id)) continue;
    const ConnectionId again = world.join_gateway(id, keys.at(id));
    std::set<std::string> told;
    for (const auto& it : world.gateway_welcome(again).authorisations()) told.insert(it.authorisation());
    RC_ASSERT(told == before[id]);
  }
}

RC_GTEST_PROP(BrokerProperty, NoMessageEndsIt, ()) {
  Bench bench;
  const ConnectionId gateway = bench.join_gateway("gw1");
  const ConnectionId client = bench.join_client("alice");
  bench.request(client, {});
  bench.answer(gateway);
  for (int i = 0; i < 20; ++i) {
    const auto bytes = *rc::gen::arbitrary<std::string>();
    v1::ClientToPortal from_client;
    v1::GatewayToPortal from_gateway;
    if (from_client.ParseFromString(bytes)) bench.broker->handle_message(client, from_client, bench.now);
    if (from_gateway.ParseFromString(bytes)) bench.broker->handle_message(gateway, from_gateway, bench.now);
    // Right kinds, wrong contents.
    v1::ClientToPortal request;
    request.mutable_request_connection()->set_resource(*rc::gen::element<std::string>("corp", "printer", bytes));
    request.mutable_request_connection()->set_request_id(bytes);
    request.mutable_request_connection()->add_names()->set_name(bytes);
    request.mutable_request_connection()->add_candidates()->mutable_endpoint()->set_address(bytes);
    bench.broker->handle_message(client, request, bench.now);
    v1::GatewayToPortal result;
    result.mutable_authorize_result()->set_request_id(*rc::gen::element<std::string>("1", "2", bytes));
    result.mutable_authorize_result()->set_authorisation(bytes);
    result.mutable_authorize_result()->set_ok(true);
    bench.broker->handle_message(gateway, result, bench.now);
    bench.drain();
    bench.advance(500ms);
  }
  RC_ASSERT(bench.broker->grant_count() <= 3u);
}

}  // namespace
}  // namespace penstock::broker
