// A WireGuard session (keypair): flat, without pointers, cache-line aware.
//
// Who reads and writes: keys, indices, peer and times are written once by the Device before the session is published
// and are read-only afterwards (lines 0 and 1). `send_counter` (line 2) is advanced by whoever sends, once per burst.
// The note times (line 3) are written by workers rarely. The window (the rest) is written by whoever receives.
// A session is valid for a worker until its next quiescent state; the Device hands retired ones to its `retire`
// callback, and whoever frees them calls destroy_session, which wipes the keys.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/limits.h"
#include "dataplane/core/wireguard/replay.h"

namespace penstock::wireguard {

struct alignas(64) Session {
  // Line 0: receiving.
  std::array<std::uint8_t, 32> receive_key{};
  std::uint32_t local_index = 0;   // what the peer puts in `receiver`
  std::uint32_t remote_index = 0;  // what we put there
  PeerIndex peer = kNoPeer;
  bool initiator = false;  // we sent the initiation: renewing is our duty
  Instant created_at{};
  std::atomic<bool> confirmed{false};  // false: a responder's session on which nothing was received yet

  // Line 1: sending.
  alignas(64) std::array<std::uint8_t, 32> send_key{};

  // Line 2: the next counter nobody has used yet.
  alignas(64) std::atomic<std::uint64_t> send_counter{0};

  // Line 3: when workers last told the Device something about this session (nanoseconds; debounces notes).
  alignas(64) std::atomic<std::int64_t> confirm_noted_at{0};
  std::atomic<std::int64_t> move_noted_at{0};
  std::atomic<std::int64_t> rekey_noted_at{0};

  ReplayWindow window;

  // Too old to send or to receive.
  [[nodiscard]] bool expired(Instant now) const { return now - created_at >= kRejectAfterTime; }
};
static_assert(sizeof(Session) <= 4096);

// Wipes keys and frees; any thread. nullptr is allowed.
void destroy_session(Session* session);

}  // namespace penstock::wireguard
