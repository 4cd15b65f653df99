// The portal: the real Broker behind signaling streams. Its disk survives its process.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "tests/model/system/signal_net.h"

namespace penstock::model {

inline constexpr Duration kPortalLatency = std::chrono::milliseconds{8};  // of its link

class PortalHost final : public Host {
 public:
  PortalHost(Network& network, SignalNet& net, broker::BrokerConfig config, std::vector<Endpoint> listen);

  void start();  // the process
  void kill();
  [[nodiscard]] bool running() const { return broker_ != nullptr; }
  void reconfigure(broker::BrokerConfig config);
  [[nodiscard]] const broker::BrokerConfig& config() const { return config_; }

  void receive(Datagram, Now) override {}
  [[nodiscard]] Instant deadline() const override;
  void timeout(Now now) override;
  [[nodiscard]] std::string deadline_reason() const override { return "portal"; }

  struct Statistics {
    std::uint64_t requests = 0, granted = 0, refused = 0, messages = 0;
  };
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }
  [[nodiscard]] const broker::Broker* broker() const { return broker_.get(); }
  std::function<void(const std::string&)> log;

 private:
  void drain();

  SignalNet& net_;
  broker::BrokerConfig config_;
  std::vector<Endpoint> listen_;
  std::map<std::string, std::string> disk_;
  std::unique_ptr<broker::Broker> broker_;
  std::map<SignalNet::StreamId, broker::Role> roles_;
  Statistics statistics_;
};

}  // namespace penstock::model
