// Words shared by the path code: candidates, deadlines, datagrams to send.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/bytes.h"
#include "dataplane/core/base/time.h"

namespace penstock::paths {

// The client agent's number for a gateway; it may well use the gateway's wireguard::PeerIndex.
using GatewayHandle = std::uint32_t;

enum class CandidateKind : std::uint8_t { host = 1, server_reflexive = 2, peer_reflexive = 3, relayed = 4 };

struct Candidate {
  CandidateKind kind = CandidateKind::host;
  Endpoint endpoint;
  auto operator<=>(const Candidate&) const = default;
};

// Limits of paths.md, so that nobody can use either end as a scanner.
inline constexpr std::size_t kMaxCandidates = 8;

// When `handle_timeout` wants to be called and what for (words for a trace). kNever: nothing is due.
struct Deadline {
  Instant at = kNever;
  std::string_view why = "idle";

  // Keeps the earlier of the two.
  void merge(Instant other, std::string_view reason) {
    if (other < at) *this = {other, reason};
  }
  void merge(const Deadline& other) { merge(other.at, other.why); }
};

// A connection to a relay over TCP or TLS, held by the shell. 0: none, so UDP.
using StreamId = std::uint32_t;

// A finished UDP datagram: send `bytes` from the tunnel's socket `local` to `remote`. With a `stream`, a whole TURN
// message for that connection instead.
struct Transmit {
  std::vector<std::uint8_t> bytes;
  Endpoint local;
  Endpoint remote;
  StreamId stream = 0;
};

// How a WireGuard datagram of the caller's is to be put on the wire: `prefix`, the datagram, `padding` zero bytes, in
// one UDP datagram from `local` to `remote`, or as one message on `stream`. Direct paths have neither prefix nor
// padding.
struct Envelope {
  Endpoint local;
  Endpoint remote;
  StreamId stream = 0;
  std::array<std::uint8_t, 48> prefix{};
  std::uint8_t prefix_size = 0;
  std::uint8_t padding = 0;

  [[nodiscard]] Bytes prefix_bytes() const { return Bytes{prefix}.first(prefix_size); }
};

// Whether an address may be probed at all: never unspecified, multicast, broadcast, link-local or reserved, and
// loopback only when `allow_loopback` (tests on one machine).
[[nodiscard]] bool is_usable_candidate(const Endpoint& endpoint, bool allow_loopback);

}  // namespace penstock::paths
