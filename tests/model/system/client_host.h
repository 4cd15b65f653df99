// A user's machine: the real ClientAgent with its stub resolver between an application, a socket and the portal. The
// state directory (names, timestamp) survives the process.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "controlplane/core/client_agent/client_agent.h"
#include "tests/model/system/signal_net.h"

namespace penstock::model {

class ClientHost final : public Host {
 public:
  struct Config {
    std::string id;
    wireguard::PrivateKey key;
    std::string token;
    std::vector<Endpoint> portal;
    std::uint16_t port = 0;  // of its sockets; 0: another one in every life
  };
  ClientHost(Network& network, SignalNet& net, Config config);

  void start();  // the process
  void kill();   // at once: no goodbye, nothing saved
  // The machine sleeps: hears nothing; wakes to what the time is then.
  void sleep() { on = false; }
  void wake();
  // Addresses came and went (the Network's attachments have changed).
  void addresses_changed();

  // The application asks the resolver; nullopt: no answer at once.
  [[nodiscard]] std::optional<IpAddress> resolve(const std::string& name, bool v6);
  // The application sends an IP packet into the TUN device.
  void send(Bytes packet);
  // Its own address inside the tunnel; unspecified: none yet.
  [[nodiscard]] IpAddress tunnel_address(bool v4) const;

  std::function<void(Bytes)> on_packet;  // out of the TUN device
  std::function<void(const std::string&)> log;

  void receive(Datagram datagram, Now now) override;
  void unreachable(const Endpoint& remote, Bytes quoted, Now now) override;
  [[nodiscard]] Instant deadline() const override;
  void timeout(Now now) override;
  [[nodiscard]] std::string deadline_reason() const override;

  [[nodiscard]] bool running() const { return agent_ != nullptr; }
  [[nodiscard]] client::ClientAgent* agent() { return agent_.get(); }
  [[nodiscard]] std::uint64_t queries() const { return queries_; }
  [[nodiscard]] std::uint64_t datagrams() const { return datagrams_; }
  [[nodiscard]] const std::string& id() const { return config_.id; }
  // To whom and of what kind, while there is a log.
  [[nodiscard]] const std::map<std::string, std::uint64_t>& kinds() const { return kinds_; }

 private:
  void drain();
  void tell_addresses();
  [[nodiscard]] Endpoint socket(bool v4) const;

  SignalNet& net_;
  Config config_;
  std::uint16_t port_ = 0;
  std::shared_ptr<Process> process_;
  std::unique_ptr<client::ClientAgent> agent_;
  std::unique_ptr<PortalLink> portal_;
  std::vector<Endpoint> hosts_;
  // The state directory.
  std::string names_;
  wireguard::Timestamp timestamp_{};
  std::uint64_t saved_names_ = 0;
  bool saving_ = false;
  std::uint16_t next_query_ = 1;
  std::uint64_t queries_ = 0, datagrams_ = 0;
  std::map<std::string, std::uint64_t> kinds_;
};

}  // namespace penstock::model
