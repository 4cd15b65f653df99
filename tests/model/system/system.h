// A whole Penstock in a simulated network, built from a Scenario: portal, relays, gateways with their sites, clients
// with applications. The programs' state machines are the real ones. run() plays the scenario to its end; Reference
// judges.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/model/system/client_host.h"
#include "tests/model/system/gateway_host.h"
#include "tests/model/system/portal_host.h"
#include "tests/model/system/reference.h"
#include "tests/model/system/scenario.h"

namespace penstock::model {

class System {
 public:
  explicit System(const Scenario& plan, std::function<void(const std::string&)> log = {});

  // Everything comes up and the applications resolve their names. False: something did not (a violation is noted).
  bool start();
  // Plays traffic and mishaps to the scenario's end and judges. What must not be is in ledger.violations.
  void run();

  void apply(const Event& event);
  void run_for(Duration time) { network.run_for(time); }
  // Application traffic by hand, from now on.
  void send(unsigned flow);
  void push(unsigned flow);  // the server speaks; only after a packet of the flow has come there
  [[nodiscard]] bool direct(unsigned client) const;  // its primary path; false also when there is none
  [[nodiscard]] Duration since_start() const { return network.time() - began_; }

  Network network;
  SignalNet signaling;
  Ledger ledger;
  std::unique_ptr<PortalHost> portal;
  std::vector<std::unique_ptr<RelayNode>> relays;
  std::vector<std::unique_ptr<Lan>> lans;
  std::vector<std::unique_ptr<GatewayHost>> gateways;
  std::vector<NatBox*> gateway_nats;  // nullptr: none
  std::vector<std::unique_ptr<ClientHost>> clients;
  std::vector<NatBox*> network_nats;
  std::vector<unsigned> client_network;
  Reference reference;

 private:
  void build_portal();
  void build_gateways();
  void build_clients();
  void attach_client(unsigned client, unsigned at);
  void plan_traffic(const Traffic& traffic);
  void judge(bool final);
  void look_at_limits();
  void log(const std::string& text);
  void after(Duration wait, std::function<void()> work) { network.schedule(network.time() + wait, std::move(work)); }
  [[nodiscard]] IpAddress outside_of_client(unsigned client) const;
  [[nodiscard]] broker::BrokerConfig config() const;

  Scenario plan_;
  std::function<void(const std::string&)> log_;
  Instant began_{};
  std::vector<std::vector<bool>> rights_;  // client, site
  bool names_up_ = true;
  std::vector<unsigned> moved_;  // how often each NAT got other addresses
  std::vector<std::uint64_t> sent_before_;
};

}  // namespace penstock::model
