// A responder's handshake in steps, so that what is costly runs on threads of its own while the Device, on its thread,
// keeps all the state:
//
//     handshake thread   open_initiation(work)   1 scalar multiplication: who claims to be speaking
//     Device             claim(work)             is that a peer; its preshared key, a session index
//     handshake thread   answer_initiation(work) 2 more, one of the base point, and one once per peer: the response
//     Device             finish(work)            replay check, the session, the response on its way
//
// One owner at a time: whoever holds the object may use it. Nothing here knows the time or who the peers are.
#pragma once

#include <optional>

#include "dataplane/core/base/random.h"
#include "dataplane/core/packet/drop_reason.h"
#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/handshake.h"

namespace penstock::wireguard {

struct InitiationWork {
  enum class Stage : std::uint8_t { received, opened, claimed, answered, done };
  Stage stage = Stage::received;  // kept by those who pass it on

  // Received.
  InitiationMessage message;
  Path from;

  // After open_initiation.
  NoiseState noise;
  PublicKey remote;

  // After claim.
  PeerIndex peer = kNoPeer;
  PresharedKey preshared{};
  std::optional<Hash> static_static;  // what answer_initiation had to compute, finish keeps
  Timestamp newest{};                 // seen of this peer
  bool too_soon = false;              // after the last one: only a copy of that is served
  std::uint32_t local_index = 0;

  // After answer_initiation.
  DropReason result = DropReason::none;
  Timestamp timestamp{};
  bool answered = false;     // there are a response and keys: the timestamp is newer than `newest`
  ResponseMessage response;  // without MACs
  TransportKeys keys;

  // Secrets go when nobody needs them any more.
  void forget();
};

// none, or wg_handshake_invalid: the message is for somebody else or forged.
DropReason open_initiation(const DhKey& own, InitiationWork& work);
// Leaves its verdict in `work.result`.
void answer_initiation(const DhKey& own, Random& random, InitiationWork& work);

// The same for up to kHandshakeBatch works, which share the time of hashing. `open` leaves verdicts in `result`, too.
void open_initiations(const DhKey& own, std::span<InitiationWork* const> works);
void answer_initiations(const DhKey& own, Random& random, std::span<InitiationWork* const> works);

}  // namespace penstock::wireguard
