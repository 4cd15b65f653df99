// How a System carries out what the scenario says goes wrong, and how it judges what became of the applications'
// packets.
#include "tests/model/system/system.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

// Bounds of what may be sent and kept, whatever goes wrong.
constexpr std::uint64_t kMostDatagramsPerSecond = 400;  // per client, on average over ten seconds
constexpr std::uint64_t kMostPerPacket = 6;             // besides: copies and resends of what applications send
constexpr std::size_t kMostMappings = 2000;

}  // namespace

IpAddress System::outside_of_client(unsigned client) const {
  const NatBox* nat = network_nats[client_network[client]];
  return nat != nullptr ? nat->external().front() : IpAddress{};
}

void System::apply(const Event& event) {
  const auto back = [this, &event](std::function<void()> work) { after(event.how_long, std::move(work)); };
  const auto move_nat = [this](NatBox* nat, std::size_t which) {
    if (nat == nullptr) return;
    // Back and forth between two sets of addresses.
    auto addresses = nat->external();
    const bool there = ++moved_[which] % 2 == 1;
    for (IpAddress& address : addresses) address = IpAddress::v4(address.v4_value() + (there ? 64U : -64U));
    nat->set_external(addresses);
  };
  const auto portal_cut = [this](const IpAddress& who, bool cut) {
    const IpAddress portal4 = *IpAddress::parse("198.51.100.10"), portal6 = *IpAddress::parse("2001:db8:10::10");
    const IpAddress& other = who.is_v4() ? portal4 : portal6;
    if (cut)
      network.cut(who, other);
    else
      network.join(who, other);
  };
  switch (event.kind) {
    case Mishap::client_nat_reset:
      if (NatBox* nat = network_nats[client_network[event.who]]) nat->forget();
      break;
    case Mishap::client_nat_moves:
      move_nat(network_nats[client_network[event.who]], client_network[event.who]);
      break;
    case Mishap::gateway_nat_reset:
      if (NatBox* nat = gateway_nats[event.who]) nat->forget();
      break;
    case Mishap::gateway_nat_moves:
      move_nat(gateway_nats[event.who], plan_.networks.size() + event.who);
      break;
    case Mishap::relay_restart:
      relays[event.who]->server.restart(network.time());
      break;
    case Mishap::relay_down:
      relays[event.who]->up = false;
      back([this, &event] {
        relays[event.who]->server.restart(network.time());
        relays[event.who]->up = true;
      });
      break;
    case Mishap::relay_cut: {
      std::vector<IpAddress> addresses;
      if (const NatBox* nat = network_nats[client_network[event.other]])
        addresses = nat->external();
      else
        addresses = {network.address_of(*clients[event.other], true)};
      const IpAddress relay = relays[event.who]->server.config().listen.address;
      for (const IpAddress& address : addresses) network.cut(address, relay);
      back([this, addresses, relay] {
        for (const IpAddress& address : addresses) network.join(address, relay);
      });
      break;
    }
    case Mishap::portal_down:
      if (!portal->running()) break;
      portal->kill();
      back([this] {
        if (!portal->running()) portal->start();
      });
      break;
    case Mishap::portal_cut_client:
    case Mishap::portal_cut_gateway: {
      std::vector<IpAddress> addresses;
      const bool client = event.kind == Mishap::portal_cut_client;
      const NatBox* nat = client ? network_nats[client_network[event.who]] : gateway_nats[event.who];
      Node& node = client ? static_cast<Node&>(*clients[event.who]) : *gateways[event.who];
      if (nat != nullptr)
        addresses = nat->external();
      else
        addresses = {network.address_of(node, true)};
      if (const IpAddress six = network.address_of(node, false); !six.is_unspecified()) addresses.push_back(six);
      for (const IpAddress& address : addresses) portal_cut(address, true);
      back([portal_cut, addresses] {
        for (const IpAddress& address : addresses) portal_cut(address, false);
      });
      break;
    }
    case Mishap::client_link_down:
    case Mishap::gateway_link_down: {
      Node& node = event.kind == Mishap::client_link_down ? static_cast<Node&>(*clients[event.who])
                                                          : *gateways[event.who];
      network.for_each_link(node, [](Link& link) { link.up = false; });
      back([this, &node] { network.for_each_link(node, [](Link& link) { link.up = true; }); });
      break;
    }
    case Mishap::client_link_bad:
    case Mishap::gateway_link_bad: {
      Node& node = event.kind == Mishap::client_link_bad ? static_cast<Node&>(*clients[event.who])
                                                         : *gateways[event.who];
      network.for_each_link(node, [&event](Link& link) {
        link.loss_permille = event.value;
        link.loss_burst = 1 + event.value % 4;
      });
      back([this, &node] { network.for_each_link(node, [](Link& link) { link.loss_permille = 0; }); });
      break;
    }
    case Mishap::client_link_slow:
      network.for_each_link(*clients[event.who],
                            [&event](Link& link) { link.latency = std::chrono::milliseconds{event.value}; });
      break;
    case Mishap::client_link_doubles:
      network.for_each_link(*clients[event.who], [&event](Link& link) { link.duplicate_permille = event.value; });
      break;
    case Mishap::client_roams:
      network.detach(*clients[event.who]);
      attach_client(event.who, event.other);
      clients[event.who]->addresses_changed();
      break;
    case Mishap::client_sleeps:
      if (!clients[event.who]->on) break;
      clients[event.who]->sleep();
      back([this, &event] { clients[event.who]->wake(); });
      break;
    case Mishap::client_restarts:
      if (!clients[event.who]->running()) break;
      clients[event.who]->kill();
      back([this, &event] {
        if (!clients[event.who]->running()) clients[event.who]->start();
      });
      break;
    case Mishap::client_clock:
      clients[event.who]->wall_offset = std::chrono::seconds{static_cast<int>(event.value) - 5000};
      break;
    case Mishap::gateway_clock:
      gateways[event.who]->wall_offset = std::chrono::seconds{static_cast<int>(event.value) - 5000};
      break;
    case Mishap::control_killed:
    case Mishap::control_ended: {
      GatewayHost& gateway = *gateways[event.who];
      if (!gateway.on || gateway.agent() == nullptr) break;
      if (event.kind == Mishap::control_killed)
        gateway.kill_control();
      else
        gateway.end_control();
      back([&gateway] {
        if (gateway.on && gateway.agent() == nullptr) gateway.start_control();
      });
      break;
    }
    case Mishap::control_stopped:
      gateways[event.who]->stop_control();
      back([this, &event] { gateways[event.who]->continue_control(); });
      break;
    case Mishap::data_plane_restarts:
      if (!gateways[event.who]->on) break;
      gateways[event.who]->kill_data_plane();
      after(100ms, [this, &event] {
        if (gateways[event.who]->on && gateways[event.who]->data_plane() == nullptr)
          gateways[event.who]->start_data_plane();
      });
      break;
    case Mishap::gateway_off:
      if (!gateways[event.who]->on) break;
      gateways[event.who]->power_off();
      back([this, &event] { gateways[event.who]->power_on(); });
      break;
    case Mishap::revoked:
    case Mishap::granted:
      rights_[event.who][event.other] = event.kind == Mishap::granted;
      portal->reconfigure(config());
      break;
    case Mishap::names_down:
      names_up_ = false;
      back([this] { names_up_ = true; });
      break;
    case Mishap::last:
      break;
  }
}

void System::judge(bool final) {
  const Duration until = final ? plan_.length : since_start() - 2 * Reference::kDelivery;
  const auto at = [this](Instant instant) { return instant - began_; };
  const auto lost = [&](const Flow& flow, std::uint64_t n, Duration sent, const char* what) {
    ledger.violations.push_back(std::string{what} + " " + std::to_string(n) + " of flow " + std::to_string(flow.id) +
                                " sent at " + std::to_string(sent / 1ms) + " ms; near: " +
                                reference.why(flow.id, sent));
  };
  for (Flow& flow : ledger.flows) {
    for (std::size_t i = 0; i < flow.requests.size(); ++i) {
      const Fate& fate = flow.requests[i];
      const Duration sent = at(fate.sent);
      if (sent + 2 * Reference::kDelivery > until) break;
      const std::uint64_t n = flow.base_requests + i;
      const Verdict verdict = reference.request(flow.id, sent);
      if (verdict == Verdict::must && (fate.arrived == kNever || fate.arrived - fate.sent > Reference::kDelivery))
        return lost(flow, n, sent, fate.arrived == kNever ? "lost: request" : "late: request");
      if (verdict == Verdict::must && fate.echoed == kNever) return lost(flow, n, sent, "lost: echo");
      if (verdict == Verdict::must_not && fate.arrived != kNever)
        return lost(flow, n, sent, "arrived without a right: request");
      Duration reset{}, by{};
      // What was on its way in the moment of the reset may be gone without anybody noticing.
      if (verdict == Verdict::may && reference.only_a_reset_near(flow.id, sent, reset, by) &&
          (sent < reset - 250ms || sent > reset + 30ms)) {
        if (fate.arrived == kNever) return lost(flow, n, sent, "lost by a reset: request");
        if (at(fate.arrived) > by) return lost(flow, n, sent, "late after a reset: request");
      }
    }
    for (std::size_t i = 0; i < flow.pushes.size(); ++i) {
      const Fate& fate = flow.pushes[i];
      const Duration sent = at(fate.sent);
      if (sent + 2 * Reference::kDelivery > until) break;
      if (reference.downward(flow.id, sent) == Verdict::must && fate.arrived == kNever)
        return lost(flow, flow.base_pushes + i, sent, "lost: push");
    }
  }
  if (!final) ledger.prune(network.time() - 60s);
}

void System::look_at_limits() {
  const auto violation = [this](std::string text) {
    ledger.violations.push_back(std::move(text) + " at " + std::to_string(since_start() / 1ms) + " ms");
  };
  for (std::size_t c = 0; c < clients.size(); ++c) {
    std::uint64_t asked = 0;
    for (const Flow& flow : ledger.flows) {
      if (flow.client != c) continue;
      for (auto fate = flow.requests.rbegin();
           fate != flow.requests.rend() && network.time() - fate->sent < 10s; ++fate)
        ++asked;
    }
    const std::uint64_t sent = clients[c]->datagrams() - sent_before_[c];
    sent_before_[c] = clients[c]->datagrams();
    if (sent > 10 * kMostDatagramsPerSecond + kMostPerPacket * asked)
      violation("client " + std::to_string(c) + " sent " + std::to_string(sent) + " datagrams in 10 s for " +
                std::to_string(asked) + " packets");
    if (clients[c]->queries() > ledger.flows.size()) violation("a further DNS query");
  }
  for (const auto& gateway : gateways)
    if (DataPlane* plane = gateway->on ? gateway->data_plane() : nullptr; plane != nullptr && plane->leaked() != 0)
      violation(gateway->id() + " has lost " + std::to_string(plane->leaked()) + " buffers");
  for (const NatBox* nat : network_nats)
    if (nat != nullptr && nat->mappings() > kMostMappings) violation("a client's NAT has too many mappings");
}

}  // namespace penstock::model
