// The generator's WireGuard clients, one Device each, as real ones would be: handshakes, sealing and opening.
//
// Client i speaks from address `i % wan_addresses` and port 40000 + `i / wan_addresses`. One thread.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "dataplane/core/wireguard/aead.h"
#include "dataplane/core/wireguard/device.h"
#include "perf/generator/options.h"
#include "perf/generator/test_keys.h"

namespace penstock::generator {

inline constexpr std::uint16_t kFirstPort = 40000;

class Clients {
 public:
  Clients(const Options& options, Random& random, Now now);

  [[nodiscard]] std::size_t size() const { return clients_.size(); }
  [[nodiscard]] const TestPeer& identity(std::size_t client) const { return clients_[client].identity; }
  [[nodiscard]] Endpoint endpoint(std::size_t client) const { return clients_[client].endpoint; }
  // Whose address and port that is.
  [[nodiscard]] std::optional<std::size_t> client_at(const Endpoint& local) const;

  // Handshakes. `older_than`: sessions of that age count as missing; a handshake replaces them.
  void want_sessions(Now now, Duration older_than);
  [[nodiscard]] std::size_t missing(Now now) const;
  void handle(std::size_t client, Bytes datagram, Now now);
  void handle_timeouts(Now now);
  struct Output {
    std::vector<std::uint8_t> datagram;
    std::size_t client = 0;
  };
  std::optional<Output> poll_output();

  // Fills `job` and writes the header before `inner`; the tag's room is behind the padding. The datagram's length, or 0
  // without a session.
  std::uint32_t prepare(std::size_t client, std::uint8_t* inner, std::uint32_t length, wireguard::AeadJob& job,
                        Now now);
  void seal(std::span<wireguard::AeadJob> jobs) { aead_->seal(jobs); }
  // The inner packet of a data message, in place; empty when it is none that we can open.
  MutableBytes open(std::size_t client, MutableBytes datagram);

 private:
  struct Client {
    TestPeer identity;
    Endpoint endpoint;
    std::unique_ptr<wireguard::Device> device;
    PeerIndex peer = 0;
    Instant made{};  // when the newest session was
    bool asked = false;
  };

  Endpoint gateway_;
  IpAddress first_address_;
  std::uint32_t addresses_;
  std::vector<Client> clients_;
  std::unique_ptr<wireguard::AeadContext> aead_;
  std::size_t next_output_ = 0;
};

}  // namespace penstock::generator
