// SlowPath: what it leaves to the process that comes after, and takes over from the one before (core/handover/state.h).
#include "dataplane/gateway/slow_path_impl.h"

namespace penstock::gateway {

void SlowPath::Implementation::take_up(PeerIndex index, const PeerKey& key, bool watched, Now now) {
  const auto found = inherited.find(key);
  if (found == inherited.end()) return;
  const handover::Peer& before = found->second;
  inherited_sessions += device.import_peer(index, before.tunnel, now);
  peers[index].switch_sequence = before.switch_sequence;
  if (watched) watch.inherit(index, before.addresses);
  inherited.erase(found);
}

std::vector<PeerIndex> SlowPath::export_state(handover::State& to) const {
  const Implementation& me = *implementation_;
  std::vector<PeerIndex> positions(me.device.peer_bound(), kNoPeer);
  for (PeerIndex index = 0; index < positions.size(); ++index) {
    auto tunnel = me.device.export_peer(index);
    if (!tunnel) continue;
    positions[index] = static_cast<PeerIndex>(to.peers.size());
    handover::Peer& peer = to.peers.emplace_back();
    peer.tunnel = std::move(*tunnel);
    if (index < me.peers.size()) peer.switch_sequence = me.peers[index].switch_sequence;
    peer.addresses = me.watch.addresses(index);
  }
  to.last_timestamp = me.device.last_timestamp();
  to.neighbours = me.neighbours.usable();
  return positions;
}

void SlowPath::inherit(handover::State& from, std::span<const PortIndex> ports, Now now) {
  Implementation& me = *implementation_;
  me.device.import_timestamp(from.last_timestamp);
  for (handover::Peer& peer : from.peers) {
    const PeerKey key = peer.tunnel.public_key.bytes;
    me.inherited.emplace(key, std::move(peer));
  }
  from.peers.clear();
  for (const handover::Neighbour& neighbour : from.neighbours)
    if (neighbour.port < ports.size() && ports[neighbour.port] != kNoPort)
      me.neighbours.inherit(ports[neighbour.port], neighbour.address, neighbour.mac, now.monotonic);
}

std::size_t SlowPath::forget_inherited() {
  implementation_->inherited.clear();
  return implementation_->inherited_sessions;
}

}  // namespace penstock::gateway
