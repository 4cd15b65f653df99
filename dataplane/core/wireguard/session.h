// A WireGuard session (keypair): flat, without pointers, cache-line aware.
//
// Who reads and writes: keys, indices, peer and times are written once by the Device before the session is published
// and are read-only afterwards. `send_counter` (line 0) is advanced by whoever sends, once per burst; the window (its
// head in line 1, the rest behind) is written by whoever receives; the note times (last line) are written by workers
// rarely. A session is valid for a worker until its next quiescent state; the Device hands retired ones to its `retire`
// callback, and whoever frees them calls destroy_session, which wipes the keys.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "dataplane/core/base/slab.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/limits.h"
#include "dataplane/core/wireguard/replay.h"

namespace penstock::wireguard {

struct alignas(64) Session : Slabbed<Session> {
  // Line 0: all that sending needs. send_counter: the next one that nobody has used yet.
  std::array<std::uint8_t, 32> send_key{};
  std::atomic<std::uint64_t> send_counter{0};
  Instant send_until{};      // expired from then on
  Instant renew_at{kNever};  // by sending; never: renewing is the peer's duty
  std::uint32_t remote_index = 0;  // what we put into `receiver`

  // Line 1: all that receiving needs, the window's head included.
  alignas(64) std::array<std::uint8_t, 32> receive_key{};
  std::uint32_t local_index = 0;  // what the peer puts into `receiver`
  PeerIndex peer = kNoPeer;
  Instant created_at{};
  std::atomic<bool> confirmed{false};  // false: a responder's session on which nothing was received yet
  bool initiator = false;              // we sent the initiation: renewing is our duty
  alignas(8) ReplayWindow window;

  // Last line: when workers last told the Device something about this session (nanoseconds; debounces notes).
  std::atomic<std::int64_t> confirm_noted_at{0};
  std::atomic<std::int64_t> move_noted_at{0};
  std::atomic<std::int64_t> rekey_noted_at{0};

  // Once, before it is published.
  void begin(bool initiated, Instant at) {
    initiator = initiated;
    created_at = at;
    send_until = at + kRejectAfterTime;
    renew_at = initiated ? at + kRekeyAfterTime : kNever;
  }

  // Too old to send or to receive.
  [[nodiscard]] bool expired(Instant now) const { return now - created_at >= kRejectAfterTime; }
};
static_assert(sizeof(Session) <= 4096);

// Wipes keys and frees; any thread. nullptr is allowed.
void destroy_session(Session* session);

}  // namespace penstock::wireguard
