// What a Device tells the Device of the next process about a peer, so that its sessions go on (docs/healing.md, "Warm
// restart"). Plain values; keys are wiped when a value ends. Times are of the machine's monotonic clock, which both
// processes read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/replay.h"

namespace penstock::wireguard {

// Counters that are left out between two processes. Nothing is sealed after the export, so that none is needed; but a
// nonce used twice is what must never happen, and a gap this small costs nothing: the peer's window is larger.
inline constexpr std::uint64_t kCounterMargin = 1024;

enum class SessionRole : std::uint8_t { current, next, previous_0, previous_1 };
inline constexpr std::uint8_t kSessionRoles = 4;

struct SessionHandover {
  SessionRole role = SessionRole::current;
  bool initiator = false;
  bool confirmed = false;
  std::array<std::uint8_t, kKeySize> send_key{};
  std::array<std::uint8_t, kKeySize> receive_key{};
  std::uint32_t local_index = 0;
  std::uint32_t remote_index = 0;
  Instant created_at{};
  std::uint64_t send_counter = 0;  // the next one that nobody has used
  ReplayWindow::Snapshot window{};

  SessionHandover() = default;
  SessionHandover(const SessionHandover&) = default;
  SessionHandover& operator=(const SessionHandover&) = default;
  ~SessionHandover() {
    wipe(send_key);
    wipe(receive_key);
  }
  bool operator==(const SessionHandover&) const = default;
};

struct PeerHandover {
  PublicKey public_key{};
  std::array<std::uint8_t, 12> greatest_timestamp{};  // of its initiations: an older one stays refused
  WallTime handshake_at{};
  std::optional<Path> endpoint;
  std::vector<SessionHandover> sessions;  // at most one of each role

  bool operator==(const PeerHandover&) const = default;
};

}  // namespace penstock::wireguard
