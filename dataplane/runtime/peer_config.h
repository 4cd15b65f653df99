// A peer as the control side states it, as WireGuard takes it. Pure.
#pragma once

#include "dataplane/core/wireguard/peer.h"
#include "dataplane/runtime/policy_spec.h"

namespace penstock::runtime {

[[nodiscard]] inline wireguard::PeerConfig peer_config(const PeerSpec& spec) {
  wireguard::PeerConfig out;
  out.public_key.bytes = spec.public_key;
  out.preshared_key.bytes = spec.preshared_key;
  out.persistent_keepalive_s = spec.persistent_keepalive_s;
  out.path_switch = spec.control;
  out.pinned_endpoint = spec.pinned_endpoint;
  out.endpoints = spec.endpoints;
  return out;
}

}  // namespace penstock::runtime
