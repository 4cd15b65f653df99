// What a SlowPath consists of and the functions of its parts. Private to it, one thread (the slow thread); which file
// has what:
//
//   slow_path.cc      what the others call, and what the parts have to say after an input
//   slow_input.cc     packets from workers, by their kind
//   slow_handover.cc  what a process leaves to the next
//
// `peers` follows the Device's slots. At most kMaximumEvents wait to be polled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "dataplane/core/handover/state.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/gateway/neighbours.h"
#include "dataplane/gateway/peer_watch.h"
#include "dataplane/gateway/slow_context.h"
#include "dataplane/gateway/slow_path.h"
#include "dataplane/gateway/stun_tick.h"
#include "dataplane/gateway/waiting.h"

namespace penstock::gateway {

// Control traffic and probes of one peer.
struct PeerState {
  bool known = false;
  PeerKey key{};
  std::uint32_t switch_sequence = 0;
  bool session_is_new = false;  // a restarted client counts its switches from the beginning
  TokenBucket control_limit{1, 1};
};

struct SlowPath::Implementation {
  Implementation(const Configuration& configuration, const wireguard::DeviceConfig& device_config,
                 const PolicyTable& policy_table, NeighbourTable& table, PacketSource& packets, Random& random,
                 const SlowPathLimits& limits)
      : context{configuration, packets, random, limits},
        policies(policy_table),
        device(device_config, random),
        neighbours(context, table),
        for_session(context),
        for_name(context),
        stun(random),
        watch(context, device.data_path()) {}

  SlowContext context;
  const PolicyTable& policies;
  wireguard::Device device;
  Neighbours neighbours;
  SessionQueue for_session;
  NameQueue for_name;
  StunTick stun;
  PeerWatch watch;
  std::vector<PeerState> peers;
  std::deque<SlowEvent> events;
  std::map<PeerKey, handover::Peer> inherited;
  std::size_t inherited_sessions = 0;

  // ---- slow_path.cc ----
  PeerState& state(PeerIndex peer);  // made when it is not there yet
  void event(const SlowEvent& what);
  void wanted(PeerIndex peer, const IpAddress& proxy, Now now);
  void send_datagram(const Path& path, Bytes payload);
  // What the sans-IO objects have to say after an input.
  void settle(Now now);
  void handle_event(const wireguard::Event& what, Now now);

  // ---- slow_input.cc ----
  void handle(Packet* packet, Now now);
  void handle_note(Packet* packet, Now now);
  void handle_stun(Packet* packet, Now now);
  void handle_control(Packet* packet, Now now);
  void handle_probe(Packet* packet, Bytes payload, Now now);
  void handle_outer_error(Packet* packet, Now now);
  void wait_for_session(Packet* packet, Now now);
  void wait_for_name(Packet* packet, Now now);

  // ---- slow_handover.cc ----
  // What the process before knew of a peer that has just been added.
  void take_up(PeerIndex index, const PeerKey& key, bool watched, Now now);
};

}  // namespace penstock::gateway
