// A STUN and TURN server model, sans-IO: what coturn does as far as our clients can tell (RFC 8489, 8656, 8016).
//
// It has one listening endpoint and gives out relayed endpoints with ascending ports on addresses of its own. Knobs
// make it misbehave in the ways the traps name. restart() forgets everything, as a process that was killed.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/stun/message.h"

namespace penstock::model {

struct Datagram {
  Endpoint from;
  Endpoint to;
  std::vector<std::uint8_t> bytes;
};

class TurnServer {
 public:
  struct Config {
    Endpoint listen;
    IpAddress relay_v4;
    IpAddress relay_v6;  // unspecified: 440
    std::string realm = "penstock.test";
    std::map<std::string, std::string> passwords = {{"user", "secret"}};
    std::string shared_secret;  // coturn's use-auth-secret: user "expiry:name", password HMAC-SHA1 of it
    bool mobility = true;  // else 405 to a ticket
    // As coturn 4.6.1: a move is made, and its first answer is 8 bytes that mean nothing. The same again is answered,
    // but not before the allocation has come to where the request is (another of its threads).
    bool garbles_moves = false;
    Duration move_takes{};
    Duration nonce_lifetime = std::chrono::seconds{600};
    std::uint32_t max_lifetime_s = 600;
    unsigned refuse_allocations = 0;   // error code to answer Allocate with
    std::vector<IpAddress> forbidden;  // 403
  };
  struct Statistics {
    std::uint64_t allocations = 0, refreshes = 0, moves = 0, permissions = 0, channel_binds = 0, bindings = 0;
    std::uint64_t data_up = 0, data_down = 0, channel_up = 0, channel_down = 0, dropped = 0, mismatches = 0;
  };

  TurnServer(Config config, Random& random) : config_(std::move(config)), random_(random) { new_nonce({}); }

  // A datagram addressed to the listening or to a relayed endpoint. Answers and relayed data go to `out`.
  void handle(const Datagram& in, Instant now, std::deque<Datagram>& out);
  [[nodiscard]] bool owns(const Endpoint& endpoint) const;
  [[nodiscard]] bool owns(const IpAddress& address) const {
    return address == config_.listen.address || address == config_.relay_v4 || address == config_.relay_v6;
  }
  void restart(Instant now);
  // What time-limited credentials are compared with.
  void set_wall(WallTime wall) { wall_ = wall; }

  Config& config() { return config_; }
  [[nodiscard]] const Statistics& statistics() const { return statistics_; }
  [[nodiscard]] std::size_t allocations() const { return allocations_.size(); }

 private:
  struct Binding {
    Endpoint peer;
    Instant expires;
  };
  struct Allocation {
    Endpoint relayed;
    std::string username;
    std::vector<std::uint8_t> ticket;
    std::vector<std::uint8_t> former_ticket;  // of the latest move: that request may come again
    Instant moved{};
    stun::TransactionId made_by{};
    Instant expires;
    std::map<IpAddress, Instant> permissions;
    std::map<std::uint16_t, Binding> channels;
    std::map<std::uint16_t, Instant> cooling;  // until when a number may not be bound to another peer
  };

  void new_nonce(Instant now);
  void expire(Instant now);
  void handle_request(const stun::Message& request, const Datagram& in, Instant now, std::deque<Datagram>& out);
  void from_peer(const Datagram& in, Instant now, std::deque<Datagram>& out);
  void to_peer(Allocation& allocation, const Endpoint& peer, Bytes data, Instant now, std::deque<Datagram>& out);

  Config config_;
  Random& random_;
  [[nodiscard]] std::optional<std::string> password_of(const std::string& username, const Endpoint& from) const;
  WallTime wall_{};
  std::string nonce_;
  Instant nonce_expires_{};
  std::uint16_t next_port_ = 49152;
  std::map<Endpoint, Allocation> allocations_;  // by the client's endpoint
  Statistics statistics_;
};

}  // namespace penstock::model
