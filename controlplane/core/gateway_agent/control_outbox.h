// In-tunnel requests of the gateway to its clients, repeated until acknowledged (docs/protocol.md "In-tunnel control").
// After 250, 500, 1000, then every 2000 ms, for 10 s; a newer message with the same key replaces the older one; at most
// 64 per peer. When a peer's session comes up everything for it is sent again at once. Sans-IO; one thread.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>

#include "controlplane/core/convert.h"
#include "controlplane/core/deadline.h"
#include "dataplane/core/base/time.h"
#include "penstock/v1/control.pb.h"

namespace penstock::gateway_agent {

class ControlOutbox {
 public:
  explicit ControlOutbox(std::uint64_t first_id) : next_id_(first_id) {}

  void request(const Key& peer, const std::string& key, v1::Control message, Instant now);
  // Sent once, never repeated: replies.
  void send(const Key& peer, v1::Control message);
  void acknowledged(const Key& peer, std::uint64_t id);
  void session_up(const Key& peer, Instant now);
  void remove(const Key& peer);

  struct Message {
    Key peer;
    std::string payload;  // serialized v1::Control
  };
  [[nodiscard]] std::optional<Message> poll();
  [[nodiscard]] Deadline poll_timeout() const;
  void handle_timeout(Instant now);

 private:
  struct Request {
    std::uint64_t id = 0;
    std::string payload;
    Duration gap{};
    Instant next{};
    Instant give_up{};
  };

  std::map<Key, std::map<std::string, Request>> requests_;
  std::deque<Message> out_;
  std::uint64_t next_id_;
};

}  // namespace penstock::gateway_agent
