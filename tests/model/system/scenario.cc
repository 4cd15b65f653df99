#include "tests/model/system/scenario.h"

#include <algorithm>
#include <array>

#include "tests/model/seeded_random.h"

namespace penstock::model {
namespace {

using namespace std::chrono_literals;

constexpr Duration kCalmStart = 6s;    // everything comes up and is used once
constexpr Duration kCalmEnd = 25s;     // nothing new goes wrong, so that the end is always judged

Duration milliseconds(unsigned n) {
  return std::chrono::milliseconds{n};
}

NatBehaviour any_nat(SeededRandom& dice, bool long_run) {
  NatBehaviour out;
  out.mapping = kDependences[dice.below(3)];
  out.filtering = kDependences[dice.below(3)];
  out.ports = std::array{PortChoice::random, PortChoice::preserving, PortChoice::preserving, PortChoice::random,
                         PortChoice::parity, PortChoice::sequential}[dice.below(6)];
  out.timeout = std::chrono::seconds{30 + dice.below(270)};
  out.refreshed_by_inbound = dice.chance(500);
  out.rejects = dice.chance(500);
  out.inbound_takes_port = dice.chance(300);
  out.hairpins = dice.chance(700);
  if (long_run && dice.chance(500)) out.lifetime = 30min;
  if (dice.chance(150)) out.pooling = Pooling::arbitrary;
  return out;
}

struct Weighted {
  Mishap kind;
  unsigned weight;
};
constexpr Weighted kMishaps[] = {
    {Mishap::client_nat_reset, 14},  {Mishap::client_nat_moves, 4},   {Mishap::gateway_nat_reset, 14},
    {Mishap::gateway_nat_moves, 4},  {Mishap::relay_restart, 5},      {Mishap::relay_down, 4},
    {Mishap::relay_cut, 3},          {Mishap::portal_down, 6},        {Mishap::portal_cut_client, 5},
    {Mishap::portal_cut_gateway, 5}, {Mishap::client_link_down, 6},   {Mishap::gateway_link_down, 4},
    {Mishap::client_link_bad, 4},    {Mishap::gateway_link_bad, 3},   {Mishap::client_link_slow, 4},
    {Mishap::client_link_doubles, 3}, {Mishap::client_roams, 8},      {Mishap::client_sleeps, 4},
    {Mishap::client_restarts, 4},    {Mishap::client_clock, 3},       {Mishap::gateway_clock, 2},
    {Mishap::control_killed, 6},     {Mishap::control_stopped, 4},    {Mishap::control_ended, 2},
    {Mishap::data_plane_restarts, 4}, {Mishap::gateway_off, 4},       {Mishap::revoked, 4},
    {Mishap::granted, 4},            {Mishap::names_down, 2},
};

Event any_event(SeededRandom& dice, const Scenario& plan, Duration at, bool long_run) {
  unsigned total = 0;
  for (const auto& [kind, weight] : kMishaps) total += weight;
  unsigned pick = dice.below(total);
  Event out;
  out.at = at;
  for (const auto& [kind, weight] : kMishaps) {
    if (pick < weight) {
      out.kind = kind;
      break;
    }
    pick -= weight;
  }
  const auto clients = static_cast<unsigned>(plan.clients.size());
  const auto gateways = static_cast<unsigned>(plan.gateways.size());
  const unsigned longest = long_run && dice.chance(300) ? 600'000 : dice.chance(200) ? 20'000 : 4'000;
  out.how_long = milliseconds(50 + dice.below(longest));
  switch (out.kind) {
    case Mishap::gateway_nat_reset:
    case Mishap::gateway_nat_moves:
    case Mishap::portal_cut_gateway:
    case Mishap::gateway_link_down:
    case Mishap::control_killed:
    case Mishap::control_stopped:
    case Mishap::control_ended:
    case Mishap::data_plane_restarts:
    case Mishap::gateway_off:
      out.who = dice.below(gateways);
      break;
    case Mishap::gateway_clock:
      out.who = dice.below(gateways);
      out.value = dice.below(10'000);
      break;
    case Mishap::gateway_link_bad:
      out.who = dice.below(gateways);
      out.value = 20 + dice.below(200);
      break;
    case Mishap::relay_restart:
    case Mishap::relay_down:
    case Mishap::relay_cut:
      out.who = dice.below(plan.relays);
      out.other = dice.below(clients);
      break;
    case Mishap::client_link_bad:
      out.who = dice.below(clients);
      out.value = 20 + dice.below(300);
      break;
    case Mishap::client_link_slow:
      out.who = dice.below(clients);
      out.value = 1 + dice.below(120);
      break;
    case Mishap::client_link_doubles:
      out.who = dice.below(clients);
      out.value = dice.below(300);
      break;
    case Mishap::client_clock:
      out.who = dice.below(clients);
      out.value = dice.below(10'000);
      break;
    case Mishap::client_roams:
      out.who = dice.below(clients);
      out.other = dice.below(static_cast<unsigned>(plan.networks.size()));
      break;
    case Mishap::revoked:
    case Mishap::granted:
      out.who = dice.below(clients);
      out.other = dice.below(plan.sites);
      break;
    default:
      out.who = dice.below(clients);
      break;
  }
  return out;
}

void add_traffic(SeededRandom& dice, Scenario& plan, bool long_run) {
  for (unsigned flow = 0; flow < plan.flows.size(); ++flow) {
    // Used once early, then on and off; at the end again.
    plan.traffic.push_back({flow, 2500ms + milliseconds(dice.below(1500)), 5s, milliseconds(100 + dice.below(200)), 0});
    Duration at = kCalmStart;
    while (at < plan.length - kCalmEnd) {
      const Duration idle = long_run ? std::chrono::seconds{dice.below(dice.chance(500) ? 60 : 2400)}
                                     : milliseconds(dice.below(dice.chance(150) ? 30'000 : 4'000));
      const Duration busy = milliseconds(500 + dice.below(long_run ? 20'000 : 12'000));
      const Duration from = at + idle;
      const Duration until = std::min(from + busy, plan.length - kCalmEnd);
      if (from >= until) break;
      const unsigned gap = dice.chance(700) ? 80 + dice.below(400) : 15 + dice.below(60);
      plan.traffic.push_back({flow, from, until, milliseconds(gap), dice.chance(400) ? 2 + dice.below(10) : 0});
      at = until;
    }
    plan.traffic.push_back({flow, plan.length - 6s, plan.length - 2s, milliseconds(100 + dice.below(100)), 0});
  }
}

}  // namespace

Scenario make_scenario(std::uint64_t seed, Duration length, const std::set<Mishap>& without) {
  const bool long_run = length > 30min;
  SeededRandom dice{seed * 2654435761U + 1};
  Scenario out;
  out.seed = seed;
  out.length = length;
  const unsigned networks = 2 + dice.below(2);
  for (unsigned i = 0; i < networks; ++i) {
    NetworkPlan network;
    if (!dice.chance(120)) network.nat = any_nat(dice, long_run);
    network.outside_addresses = network.nat && dice.chance(200) ? 2 + dice.below(2) : 1;
    network.has_v6 = dice.chance(300);
    out.networks.push_back(network);
  }
  const unsigned clients = 1 + (dice.chance(400) ? 1 : 0) + (dice.chance(150) ? 1 : 0);
  for (unsigned i = 0; i < clients; ++i)
    out.clients.push_back({dice.below(networks), milliseconds(1 + dice.below(40))});
  out.sites = dice.chance(250) ? 2 : 1;
  for (unsigned site = 0; site < out.sites; ++site)
    for (unsigned n = dice.chance(350) ? 2 : 1; n > 0; --n) {
      GatewayPlan gateway;
      gateway.site = site;
      if (!dice.chance(250)) gateway.nat = any_nat(dice, long_run);
      gateway.outside_addresses = 1;
      gateway.has_v6 = !gateway.nat && dice.chance(600);
      gateway.latency = milliseconds(1 + dice.below(30));
      out.gateways.push_back(gateway);
    }
  out.relays = 1 + dice.below(2);
  out.relay_mobility = dice.chance(600);
  out.relay_latency = milliseconds(1 + dice.below(15));
  out.jitter = milliseconds(dice.below(6));
  for (unsigned client = 0; client < clients; ++client)
    for (unsigned n = 1 + dice.below(2); n > 0; --n)
      out.flows.push_back({client, dice.below(out.sites), dice.below(3), dice.chance(500)});
  add_traffic(dice, out, long_run);
  const Duration gap = long_run ? 20min : 6s;
  for (Duration at = kCalmStart; at < length - kCalmEnd;) {
    if (const Event event = any_event(dice, out, at, long_run); !without.contains(event.kind))
      out.events.push_back(event);
    // Several at once happen as well.
    if (!dice.chance(200)) at += milliseconds(dice.below(static_cast<unsigned>(2 * gap / 1ms)));
  }
  return out;
}

const char* name_of(Mishap kind) {
  static constexpr const char* kNames[] = {
      "client_nat_reset",  "client_nat_moves",   "gateway_nat_reset",   "gateway_nat_moves", "relay_restart",
      "relay_down",        "relay_cut",          "portal_down",         "portal_cut_client", "portal_cut_gateway",
      "client_link_down",  "gateway_link_down",  "client_link_bad",     "gateway_link_bad",  "client_link_slow",
      "client_link_doubles", "client_roams",     "client_sleeps",       "client_restarts",   "client_clock",
      "gateway_clock",     "control_killed",     "control_stopped",     "control_ended",     "data_plane_restarts",
      "gateway_off",       "revoked",            "granted",             "names_down"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(Mishap::last));
  return kNames[static_cast<std::size_t>(kind)];
}

std::optional<Mishap> mishap_called(std::string_view name) {
  for (std::size_t kind = 0; kind < static_cast<std::size_t>(Mishap::last); ++kind)
    if (name == name_of(static_cast<Mishap>(kind))) return static_cast<Mishap>(kind);
  return std::nullopt;
}

namespace {
std::string seconds(Duration d) {
  const auto ms = d / 1ms;
  std::string fraction = std::to_string(ms % 1000);
  return std::to_string(ms / 1000) + "." + std::string(3 - fraction.size(), '0') + fraction + " s";
}
}  // namespace

std::string Event::to_string() const {
  std::string out = seconds(at) + "  " + name_of(kind) + " " + std::to_string(who);
  if (kind == Mishap::client_roams) out += " to network " + std::to_string(other);
  if (kind == Mishap::relay_cut) out += " from client " + std::to_string(other);
  if (kind == Mishap::revoked || kind == Mishap::granted) out += " site " + std::to_string(other);
  if (value != 0) out += " value " + std::to_string(value);
  switch (kind) {
    case Mishap::client_nat_reset:
    case Mishap::client_nat_moves:
    case Mishap::gateway_nat_reset:
    case Mishap::gateway_nat_moves:
    case Mishap::relay_restart:
    case Mishap::client_link_slow:
    case Mishap::client_link_doubles:
    case Mishap::client_roams:
    case Mishap::client_clock:
    case Mishap::gateway_clock:
    case Mishap::data_plane_restarts:
    case Mishap::revoked:
    case Mishap::granted:
      break;
    default:
      out += " for " + seconds(how_long);
  }
  return out;
}

std::string Scenario::to_string() const {
  std::string out = "seed " + std::to_string(seed) + ", " + seconds(length) + ", " + std::to_string(relays) +
                    " relays (" + (relay_mobility ? "mobility" : "no mobility") + ", " + seconds(relay_latency) +
                    "), jitter " + seconds(jitter) + "\n";
  for (std::size_t i = 0; i < networks.size(); ++i)
    out += "  network " + std::to_string(i) + ": " + (networks[i].nat ? networks[i].nat->to_string() : "public") +
           (networks[i].outside_addresses > 1 ? ", " + std::to_string(networks[i].outside_addresses) + " addresses"
                                              : std::string{}) +
           (networks[i].has_v6 ? ", IPv6" : "") + "\n";
  for (std::size_t i = 0; i < clients.size(); ++i)
    out += "  client " + std::to_string(i) + ": in network " + std::to_string(clients[i].network) + ", " +
           seconds(clients[i].latency) + "\n";
  for (std::size_t i = 0; i < gateways.size(); ++i)
    out += "  gateway " + std::to_string(i) + ": site " + std::to_string(gateways[i].site) + ", " +
           (gateways[i].nat ? gateways[i].nat->to_string() : "public") + (gateways[i].has_v6 ? ", IPv6" : "") + ", " +
           seconds(gateways[i].latency) + "\n";
  for (std::size_t i = 0; i < flows.size(); ++i)
    out += "  flow " + std::to_string(i) + ": client " + std::to_string(flows[i].client) + " to server " +
           std::to_string(flows[i].server) + " of site " + std::to_string(flows[i].site) +
           (flows[i].v6 ? " over IPv6" : " over IPv4") + "\n";
  for (std::size_t i = 0; i < events.size(); ++i)
    out += "  event " + std::to_string(i) + ": " + events[i].to_string() + "\n";
  return out;
}

}  // namespace penstock::model
