// A burst on its way through the AEAD: decap and encap in two halves each, so that a worker which others help with its
// encryption can do something else between them (graph.h, Pipeline). The usual way is decap() and encap() of stages.h,
// which do both halves and the work between them.
//
// Same thread as the worker, and within one call of its loop: sessions are read under its RCU read side.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dataplane/core/packet/packet.h"
#include "dataplane/core/wireguard/aead.h"

namespace penstock::wireguard {
struct Session;
}
namespace penstock::gateway {

struct Worker;

// What is being opened, packets of one session side by side.
struct Opening {
  std::size_t count = 0;
  Packet* packets[kBurst];
  std::uint64_t counters[kBurst];
  wireguard::AeadJob jobs[kBurst];
  unsigned groups = 0;
  wireguard::Session* sessions[kBurst];  // of the groups
  std::uint8_t ends[kBurst];             // first packet behind the group
};

// What is being sealed, packets for one peer side by side.
struct Sealing {
  std::size_t count = 0;
  Packet* packets[kBurst];
  std::uint8_t ecn[kBurst];
  wireguard::AeadJob jobs[kBurst];
  unsigned groups = 0;
  PeerIndex peers[kBurst];    // of the groups
  std::uint8_t ends[kBurst];  // first packet behind the group
  std::uint64_t keep = 0;     // bit per packet: a copy goes into the ring (resend.h)
};

// Takes the packets; then `opening.jobs`, `opening.count` of them, are to be opened. Leaves what decap() leaves.
void begin_decap(Worker& worker, PacketBurst& packets, Opening& opening);
void end_decap(Worker& worker, Opening& opening, PacketBurst& packets);

// The same with `sealing.jobs` and encap().
void begin_encap(Worker& worker, PacketBurst& packets, Sealing& sealing);
void end_encap(Worker& worker, Sealing& sealing, PacketBurst& packets);

}  // namespace penstock::gateway
