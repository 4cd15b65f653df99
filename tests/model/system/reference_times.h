// The goals of docs/paths.md as Reference judges by them, each with what it is the time of.
#pragma once

#include <chrono>

#include "dataplane/core/base/time.h"

namespace penstock::model {

using namespace std::chrono_literals;

// How long after its end a disturbance may still be felt.
namespace settle {
// Of a reset: paths.md's 300 ms and four round trips, yet no less than this, as two may come at once. One NAT alone
// loses nothing at all (only_a_reset_near).
inline constexpr Duration kNatReset = 2s;
// Round trips besides, when the client needs another allocation and the gateway's word: the refused refresh, Allocate,
// CreatePermission, a stream to the portal (TCP, TLS, Hello), the candidates' way, and the first probe.
inline constexpr int kAnewTrips = 8;
// ... when the streams to the portal stand meanwhile.
inline constexpr int kAgainTrips = 4;
inline constexpr Duration kKept = 2s;             // copies are sent for so long
inline constexpr Duration kIdleAfter = 110s;      // without data (paths.md: 2 minutes)
// paths.md's second, in networks whose round trips let four of them, and those of another allocation, be made in it.
inline constexpr Duration kRoam = 1s;
inline constexpr Duration kRelay = 1s;
inline constexpr Duration kPortalBack = 40s;      // reconnecting backs off up to 30 s
inline constexpr Duration kControlBack = 8s;
inline constexpr Duration kStreamBack = 20s;      // keepalives find a broken one within 15 s
inline constexpr Duration kOutage = 3s;           // of a link, shorter than ten seconds
inline constexpr Duration kLongOutage = 12s;      // sessions, allocations and streams have died meanwhile
inline constexpr Duration kClientRestart = 6s;
inline constexpr Duration kWelcomed = 2s;         // after its start
inline constexpr Duration kDataPlane = 8s;
inline constexpr Duration kGatewayOff = 12s;
inline constexpr Duration kKeepalive = 28s;       // an idle client's keepalive goes out every 25 s (paths.md) ...
inline constexpr Duration kMissed = 3s;           // ... and a gateway that is gone is missed 3 s after a packet to it
inline constexpr Duration kLeft = 2s;             // of silence, after which another gateway is asked for
inline constexpr Duration kTunnel = 1s;           // a cold tunnel, from its first packet on
inline constexpr Duration kLoss = 2s;
inline constexpr Duration kRevoked = 2s;          // until every gateway has been told
inline constexpr Duration kGranted = 20s;         // asking again backs off while refused
inline constexpr Duration kNames = 15s;
inline constexpr Duration kUdpIdle = 5min;        // a translation without traffic ends (nat.md, RFC 4787 REQ-5)
}  // namespace settle

}  // namespace penstock::model
