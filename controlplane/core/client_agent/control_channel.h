// In-tunnel control of one gateway: requests that are repeated until they are answered (protocol.md, "In-tunnel
// control").
//
// The channel makes and reads the inner packets fe80::1 → fe80::2 (IPv6, next header 253, hop limit 255, payload type
// 3 and a serialized penstock.v1.Control). Requests are idempotent: the same bytes are sent again after 250, 500, 1000
// and then every 2000 ms while a session is up, until a reply with their id comes or `give_up` has passed. A request's
// `key` makes it unique: asking the same again while it is under way changes nothing. Replies nobody waits for are
// ignored. Bounded: at most kMaxRequests under way. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/wireguard/probe.h"
#include "penstock/v1/control.pb.h"

namespace penstock::client {

// A whole inner packet around a message.
[[nodiscard]] std::vector<std::uint8_t> make_control_packet(const v1::Control& message,
                                                            wireguard::ControlDirection direction);

class ControlChannel {
 public:
  static constexpr std::size_t kMaxRequests = 1024;

  explicit ControlChannel(Random& random) : random_(&random) {}

  // Sends `message` (its id is set here) until answered. False when too many are under way.
  bool request(const std::string& key, v1::Control message, Instant now, Duration give_up);
  void cancel(const std::string& key);
  [[nodiscard]] bool pending(const std::string& key) const { return by_key_.contains(key); }
  [[nodiscard]] std::size_t pending() const { return requests_.size(); }

  // A session came up (or was renewed by a new handshake after a break): everything under way is sent again at once.
  void session_up(Instant now);
  void session_down() { up_ = false; }
  // Packets take another way from now on: what went the old one is sent again at once.
  void way_changed(Instant now);

  struct Reply {
    std::string key;  // of the request
    v1::Control message;
  };
  struct Request {  // from the gateway; the caller answers with reply()
    v1::Control message;
  };
  using Received = std::variant<DropReason, Reply, Request>;
  // `payload`: behind the type byte. A DnsAnswer in pieces is reported when it is complete, with the joined message.
  [[nodiscard]] Received handle_payload(Bytes payload, Instant now);
  void reply(std::uint64_t id, v1::Control message);

  // Whole inner packets to send through the tunnel, in order.
  std::optional<std::vector<std::uint8_t>> poll_packet();
  // Requests that were given up: keys.
  std::optional<std::string> poll_given_up();
  [[nodiscard]] Instant next_deadline() const;
  void handle_timeout(Instant now);

 private:
  static constexpr std::uint32_t kMaxPieces = 64;

  struct Pending {
    std::string key;
    std::vector<std::uint8_t> packet;
    Instant sent{};
    Instant next{};
    Instant give_up{};
    Duration interval{};
    std::vector<std::string> pieces;  // of a DnsAnswer
    std::uint32_t pieces_missing = 0;
  };

  void send(Pending& pending, Instant now);
  bool join_pieces(Pending& pending, v1::DnsAnswer& answer);

  Random* random_;
  bool up_ = false;
  std::map<std::uint64_t, Pending> requests_;
  std::map<std::string, std::uint64_t> by_key_;
  std::deque<std::vector<std::uint8_t>> packets_;
  std::deque<std::string> given_up_;
};

}  // namespace penstock::client
