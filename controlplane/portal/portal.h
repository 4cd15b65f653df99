// The portal's process around the Broker: streams, memory, timers and inspection on one loop.
#pragma once

#include <memory>
#include <string>

#include "controlplane/core/broker/broker.h"
#include "controlplane/io/inspect_server.h"
#include "controlplane/io/loop.h"
#include "controlplane/io/record_log.h"
#include "controlplane/io/signaling_server.h"
#include "controlplane/portal/config.h"

namespace penstock::portal {

class Portal {
 public:
  // nullptr and `error` ("key.path: reason") set when something cannot be had.
  [[nodiscard]] static std::unique_ptr<Portal> start(io::Loop& loop, Config config, std::string& error);
  ~Portal();

  // Everything but addresses, files and TLS may change in a running process.
  void reload(Config config);

  [[nodiscard]] std::uint16_t port() const { return server_->port(); }
  [[nodiscard]] const broker::Broker& broker() const { return *broker_; }

 private:
  explicit Portal(io::Loop& loop);
  bool open(Config config, std::string& error);
  void drain();
  void perform(broker::Output& output);
  [[nodiscard]] v1::StatusReply status() const;
  [[nodiscard]] v1::PeersReply peers(std::uint32_t limit) const;

  io::Loop& loop_;
  Instant started_;
  std::string listen_;
  std::unique_ptr<io::RecordLog> memory_;
  std::unique_ptr<broker::Broker> broker_;
  io::Loop::Timer timer_;
  io::Loop::Source after_turn_;
  std::unique_ptr<io::SignalingServer> server_;
  std::unique_ptr<io::InspectServer> inspect_;
  bool memory_failed_ = false;
};

}  // namespace penstock::portal
