// A gateway's machine: the data plane (data_plane.h) and, a process of its own, the real GatewayAgent, joined by what
// stands for gRPC on a unix socket; a WAN port behind the Network, a LAN port in the site's network.
#pragma once

#include <memory>
#include <string>

#include "controlplane/core/backoff.h"
#include "controlplane/core/gateway_agent/gateway_agent.h"
#include "tests/model/system/data_plane.h"
#include "tests/model/system/lan.h"
#include "tests/model/system/signal_net.h"

namespace penstock::model {

class GatewayHost final : public Host {
 public:
  using Zone = std::function<std::optional<gateway_agent::DnsAnswer>(const std::string& name, gateway_agent::Family)>;
  struct Config {
    std::string id;
    wireguard::PrivateKey key;
    std::string token;
    std::vector<Endpoint> portal;
    IpAddress wan_v4, wan_v6;  // on its WAN port (inside a NAT where there is one); unspecified: none
    IpAddress lan_v4, lan_v6;  // sources of what it translates
    Zone zone;                 // nullopt: the name server does not answer
  };
  GatewayHost(Network& network, SignalNet& net, Lan& lan, Config config);
  ~GatewayHost() override;

  void start_data_plane();
  void kill_data_plane();
  void start_control();
  void kill_control();         // -9
  void end_control();          // SIGTERM: says goodbye
  void stop_control();         // SIGSTOP
  void continue_control();
  void power_off();
  void power_on();

  // From the LAN, after a moment.
  void lan_frame(std::vector<std::uint8_t> frame);
  [[nodiscard]] const MacAddress& lan_mac() const;

  void receive(Datagram datagram, Now now) override;
  void unreachable(const Endpoint& remote, Bytes quoted, Now now) override;
  [[nodiscard]] Instant deadline() const override;
  void timeout(Now now) override;
  [[nodiscard]] std::string deadline_reason() const override;

  [[nodiscard]] DataPlane* data_plane() { return data_plane_.get(); }
  [[nodiscard]] gateway_agent::GatewayAgent* agent() { return control_ ? &control_->agent : nullptr; }
  [[nodiscard]] bool ready() const;  // agent synchronised
  [[nodiscard]] const std::string& id() const { return config_.id; }
  [[nodiscard]] std::uint64_t datagrams() const { return datagrams_; }
  std::function<void(const std::string&)> log;

 private:
  struct Control {
    Control(gateway_agent::AgentConfig config, Random& random) : agent(std::move(config), random) {}
    std::shared_ptr<Process> process = std::make_shared<Process>();
    gateway_agent::GatewayAgent agent;
    std::unique_ptr<PortalLink> portal;
    bool attached = false;  // to the data plane
    std::uint64_t attempt = 0;
    Backoff backoff{std::chrono::milliseconds{100}, std::chrono::seconds{2}};
  };

  void transmit(PortIndex port, Bytes frame);
  void wan_frame(std::vector<std::uint8_t> packet);
  void carry();  // the data plane's events and punts to the control process
  void dial();
  void lost_data_plane();
  void open_portal();
  void drain_control();
  void perform(gateway_agent::Output& output);
  void in_control(Duration after, std::function<void(Control&)> work);

  SignalNet& net_;
  Lan& lan_;
  Config config_;
  std::unique_ptr<DataPlane> data_plane_;
  std::uint64_t instance_ = 0;
  std::shared_ptr<Control> control_;
  bool transmitting_ = false;
  std::uint64_t datagrams_ = 0;
};

}  // namespace penstock::model
