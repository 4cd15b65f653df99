// What one run consists of: a topology, the applications' traffic, and what goes wrong when. Made from a seed; printed
// and cut down when it fails. Plain values; times count from the start of the run.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/model/nat_box.h"

namespace penstock::model {

enum class Mishap : std::uint8_t {
  client_nat_reset,    // who: client; of the network it is in now
  client_nat_moves,    // the same, and it has another address afterwards
  gateway_nat_reset,   // who: gateway
  gateway_nat_moves,
  relay_restart,       // who: relay
  relay_down,          // for `how_long`
  relay_cut,           // from client `other`, for `how_long`
  portal_down,         // killed, started again after `how_long`
  portal_cut_client,   // who: client
  portal_cut_gateway,  // who: gateway
  client_link_down,    // who: client
  gateway_link_down,   // who: gateway
  client_link_bad,     // loses `value` permille
  gateway_link_bad,
  client_link_slow,    // latency becomes `value` ms, for good
  client_link_doubles, // `value` permille duplicated, for good
  client_roams,        // who: client, to network `other`
  client_sleeps,
  client_restarts,     // killed, started again after `how_long`
  client_clock,        // steps by `value` - 5000 seconds
  gateway_clock,
  control_killed,      // who: gateway; started again after `how_long`
  control_stopped,     // SIGSTOP
  control_ended,       // SIGTERM, started again after `how_long`
  data_plane_restarts,
  gateway_off,         // the machine, for `how_long`
  revoked,             // who: client; its right to site `other`
  granted,
  names_down,          // the gateways' name server does not answer
  last
};
[[nodiscard]] const char* name_of(Mishap kind);

struct Event {
  Duration at{};
  Mishap kind{};
  unsigned who = 0;
  unsigned other = 0;
  Duration how_long{};
  unsigned value = 0;

  [[nodiscard]] std::string to_string() const;
};

struct Traffic {
  unsigned flow = 0;
  Duration from{}, until{};
  Duration gap{};
  unsigned push_every = 0;  // the server speaks first after so many; 0: never
};

struct FlowPlan {
  unsigned client = 0;
  unsigned site = 0;
  unsigned server = 0;  // of the site: 0 has IPv4 only, 1 IPv6 only, 2 both
  bool v6 = false;      // of the application's socket
};

struct NetworkPlan {
  std::optional<NatBehaviour> nat;  // nullopt: public addresses
  unsigned outside_addresses = 1;
  bool has_v6 = false;
};

struct ClientPlan {
  unsigned network = 0;  // where it starts
  Duration latency{};
};

struct GatewayPlan {
  unsigned site = 0;
  std::optional<NatBehaviour> nat;
  unsigned outside_addresses = 1;
  bool has_v6 = false;  // only without NAT
  Duration latency{};
};

struct Scenario {
  std::uint64_t seed = 0;
  Duration length{};
  std::vector<NetworkPlan> networks;
  std::vector<ClientPlan> clients;
  unsigned sites = 1;
  std::vector<GatewayPlan> gateways;
  unsigned relays = 1;
  bool relay_mobility = true;
  Duration relay_latency{};
  Duration jitter{};
  std::vector<FlowPlan> flows;
  std::vector<Traffic> traffic;
  std::vector<Event> events;  // by time

  [[nodiscard]] std::string to_string() const;
};

// `length`: 120 s makes one with a mishap every few seconds; a day makes one with a mishap every half an hour or so,
// mappings that die after 30 minutes, and traffic that comes and goes. Mishaps of the kinds `without` are left out.
[[nodiscard]] Scenario make_scenario(std::uint64_t seed, Duration length, const std::set<Mishap>& without = {});
[[nodiscard]] std::optional<Mishap> mishap_called(std::string_view name);

}  // namespace penstock::model
