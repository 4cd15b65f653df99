// Noise_IKpsk2 as WireGuard uses it (whitepaper section 5.4.2–5.4.5), as pure functions over message structs. No
// policy: when to send, what to believe and which session to use is the Device's business. MACs are cookie.h's.
//
// Every function returns false on anything that does not authenticate, with its outputs unspecified and its inputs
// unchanged. Messages are written completely except for mac1 and mac2, which are zero.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/core/wireguard/crypto.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/core/wireguard/keys.h"
#include "dataplane/core/wireguard/messages.h"

namespace penstock::wireguard {

// The running chaining key and hash of a handshake.
struct NoiseState {
  Hash chain;
  Hash hash;
};

// What every handshake with this responder starts from.
[[nodiscard]] NoiseState begin_noise(const PublicKey& responder);

struct TransportKeys {
  Hash send;
  Hash receive;
};

// What an initiator keeps until the response arrives.
struct InitiatorState {
  NoiseState noise;
  DhKey ephemeral;
};

// `static_static`: DH of both static keys. `ephemeral`: fresh and random.
bool create_initiation(const DhKey& own, const PublicKey& remote, const Hash& static_static,
                       const PrivateKey& ephemeral, const Timestamp& timestamp, std::uint32_t local_index,
                       InitiationMessage& out, InitiatorState& state);

// Responder, first half: who claims to be speaking (authenticated only by the second half).
bool open_initiation(const DhKey& own, const InitiationMessage& message, NoiseState& state, PublicKey& remote);
// Second half, with the DH that the claim calls for: the timestamp.
bool open_timestamp(const InitiationMessage& message, const Hash& static_static, NoiseState& state,
                    Timestamp& timestamp);

// Responder: the answer and the session's keys.
bool create_response(NoiseState state, const InitiationMessage& initiation, const PublicKey& remote,
                     const PresharedKey& preshared, const PrivateKey& ephemeral, std::uint32_t local_index,
                     ResponseMessage& out, TransportKeys& keys);

// The same for several handshakes at once, with their hashing in lanes (blake2s_batch.h): what several handshakes have
// in common is everything but their multiplications. The results are those of the functions above, one by one. At most
// kHandshakeBatch; `ok` says which succeeded.
inline constexpr std::size_t kHandshakeBatch = 8;
struct OpenedInitiation {
  const InitiationMessage* message;
  NoiseState* state;
  PublicKey* remote;
  bool ok;
};
void open_initiations(const DhKey& own, std::span<OpenedInitiation> batch);
struct OpenedTimestamp {
  const InitiationMessage* message;
  const Hash* static_static;
  NoiseState* state;
  Timestamp* timestamp;
  bool ok;
};
void open_timestamps(std::span<OpenedTimestamp> batch);
struct CreatedResponse {
  const NoiseState* state;
  const InitiationMessage* initiation;
  const PublicKey* remote;
  const PresharedKey* preshared;
  const PrivateKey* ephemeral;
  std::uint32_t local_index;
  ResponseMessage* out;
  TransportKeys* keys;
  bool ok;
};
void create_responses(std::span<CreatedResponse> batch);

// Initiator: the session's keys. `state` stays usable for another response if this one is false.
bool open_response(const DhKey& own, const InitiatorState& state, const PresharedKey& preshared,
                   const ResponseMessage& message, TransportKeys& keys);

// TAI64N of `wall`, with the nanoseconds rounded down to 2^24 (about 17 ms) so that the clock is not given away finely.
[[nodiscard]] Timestamp make_timestamp(WallTime wall);
// The smallest timestamp greater than `last`.
[[nodiscard]] Timestamp next_timestamp(const Timestamp& last);

}  // namespace penstock::wireguard
