// Timers and limits of the WireGuard protocol (whitepaper section 6.1 and, where it says less, the first
// implementations), and those Penstock adds for peers whose path it chooses itself.
#pragma once

#include <chrono>
#include <cstdint>

#include "dataplane/core/base/time.h"

namespace penstock::wireguard {

using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr std::uint64_t kRekeyAfterMessages = std::uint64_t{1} << 60;
inline constexpr std::uint64_t kRejectAfterMessages = ~std::uint64_t{0} - (std::uint64_t{1} << 13);  // 2^64 - 2^13 - 1
inline constexpr Duration kRekeyAfterTime = seconds(120);
inline constexpr Duration kRejectAfterTime = seconds(180);
inline constexpr Duration kRekeyAttemptTime = seconds(90);
inline constexpr Duration kRekeyTimeout = seconds(5);
inline constexpr Duration kRekeyTimeoutJitter = milliseconds(333);  // added: uniform in [0, this]
inline constexpr Duration kKeepaliveTimeout = seconds(10);
// An initiator that still receives on a session this old renews it, so that the other side never has to.
inline constexpr Duration kRekeyAfterTimeReceiving = kRejectAfterTime - kKeepaliveTimeout - kRekeyTimeout;
// Data sent, nothing heard: a new handshake.
inline constexpr Duration kNewHandshakeTime = kKeepaliveTimeout + kRekeyTimeout;
inline constexpr Duration kCookieSecretMaxAge = seconds(120);  // of the giver's secret
inline constexpr Duration kCookieLatency = seconds(5);         // the taker stops this much earlier
// Initiations of one peer closer together than this are not even answered (50 per second).
inline constexpr Duration kInitiationInterval = milliseconds(20);

// Peers in path-switch mode: first retry, doubled each time up to REKEY-TIMEOUT; and the closest two fresh initiations.
inline constexpr Duration kPathRetryFirst = milliseconds(250);
inline constexpr Duration kPathRetryAfterCopy = milliseconds(150);  // at the earliest
inline constexpr Duration kPathInitiationSpacing = milliseconds(25);
// Tries before the latest whose answers still count, on both sides; none that is older than this. Without them no
// handshake would end before the pauses between tries are longer than a round trip.
inline constexpr std::size_t kEarlierTries = 3;
inline constexpr Duration kEarlierTryTime = kRekeyTimeout;
// A copy of an answered initiation that comes over another path this soon is answered there as well.
inline constexpr Duration kPathCopyTime = milliseconds(500);

}  // namespace penstock::wireguard
