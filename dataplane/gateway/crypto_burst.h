// A burst on its way through the AEAD: decap and encap in two halves each, so that a worker which others help with its
// encryption can do something else between them (pipeline.h). The usual way is decap() and encap() of stages.h,
// which do both halves and the work between them.
//
// Same thread as the worker, and within one call of its loop: sessions are read under its RCU read side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/aead.h"

namespace penstock::wireguard {
struct Session;
}
namespace penstock::gateway {

struct Worker;

// Packets whose bytes are worked on, those of one session or peer side by side.
struct CryptoBurst {
  std::size_t count = 0;
  Packet* packets[kBurst];
  wireguard::AeadJob jobs[kBurst];
  unsigned groups = 0;
  std::uint8_t ends[kBurst];  // of the groups: first packet behind

  [[nodiscard]] std::span<wireguard::AeadJob> work() { return {jobs, count}; }
};

struct Opening : CryptoBurst {
  std::uint64_t counters[kBurst];
  wireguard::Session* sessions[kBurst];  // of the groups
};

struct Sealing : CryptoBurst {
  std::uint8_t ecn[kBurst];
  PeerIndex peers[kBurst];  // of the groups
  std::uint64_t keep = 0;   // bit per packet: a copy goes into the ring (resend.h)
};

// Takes the packets; then opening.work() is to be opened. Leaves what decap() leaves.
void begin_decap(Worker& worker, PacketBurst& packets, Opening& opening);
void end_decap(Worker& worker, Opening& opening, PacketBurst& packets);

// The same with sealing.work() and encap().
void begin_encap(Worker& worker, PacketBurst& packets, Sealing& sealing);
void end_encap(Worker& worker, Sealing& sealing, PacketBurst& packets);

}  // namespace penstock::gateway
