// The gateway's control process around the GatewayAgent: portal stream, data plane, DNS and inspection on one loop.
#pragma once

#include <memory>
#include <string>

#include "controlplane/core/gateway_agent/gateway_agent.h"
#include "controlplane/gateway/config.h"
#include "controlplane/io/cares_resolver.h"
#include "controlplane/io/dataplane_client.h"
#include "controlplane/io/inspect_server.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/signaling_client.h"
#include "controlplane/io/system_random.h"

namespace penstock::gateway {

class Gateway {
 public:
  // nullptr and `error` ("key.path: reason") set when something cannot be had. `fatal` is called when the portal says
  // that the token is not good.
  [[nodiscard]] static std::unique_ptr<Gateway> start(io::Loop& loop, Config config,
                                                      std::function<void(const std::string&)> fatal,
                                                      std::string& error);
  ~Gateway();

  // Before the end of the process: goodbyes, when they are wanted.
  void finish();

  [[nodiscard]] const gateway_agent::GatewayAgent& agent() const { return agent_; }

 private:
  Gateway(io::Loop& loop, Config config, std::function<void(const std::string&)> fatal);
  bool open(std::string& error);
  void open_portal();
  void drain();
  void perform(gateway_agent::Output& output);
  [[nodiscard]] v1::StatusReply status() const;
  [[nodiscard]] v1::PeersReply peers(std::uint32_t limit) const;
  [[nodiscard]] v1::NamesReply names(std::uint32_t limit) const;

  io::Loop& loop_;
  Config config_;
  std::function<void(const std::string&)> fatal_;
  Instant started_;
  io::SystemRandom random_;
  gateway_agent::GatewayAgent agent_;
  io::Loop::Timer timer_;
  io::Loop::Source after_turn_;
  std::unique_ptr<io::CaresResolver> dns_;
  std::unique_ptr<io::DataPlaneClient> dataplane_;
  std::unique_ptr<io::GatewaySignaling> portal_;
  std::unique_ptr<io::InspectServer> inspect_;
  bool portal_started_ = false;
  bool portal_lost_ = false;
  bool dataplane_lost_ = false;
  std::string portal_trouble_;
  std::string dataplane_trouble_;
};

}  // namespace penstock::gateway
