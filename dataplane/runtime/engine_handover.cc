// An engine's state out of the process that ends and into the one that follows.
#include <algorithm>

#include "dataplane/core/handover/state.h"
#include "dataplane/core/wireguard/device.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/engine_state.h"

namespace penstock::runtime {

handover::State Engine::export_state() {
  const Now now = read_clock();
  handover::State out;
  out.public_key.bytes = state_->public_key;
  out.at = now.monotonic;
  out.workers = state_->config.workers;
  for (const auto& port : state_->path.ports) out.ports.push_back(port.name);
  const std::vector<PeerIndex> positions = state_->slow_path->export_state(out);
  std::size_t flows = 0;
  for (const auto& set : state_->workers) flows += set->translator->flow_count();
  out.flows.reserve(flows);
  for (const auto& set : state_->workers)
    set->translator->export_flows(now, [&](const nat::FlowHandover& flow) {
      if (flow.peer >= positions.size() || positions[flow.peer] == kNoPeer) return;
      out.flows.push_back({set->worker.id, flow});
      out.flows.back().flow.peer = positions[flow.peer];
    });
  return out;
}

void Engine::inherit(handover::State& from) {
  state_->warm.emplace();
  state_->left_at = from.at;
  state_->warm->peers = from.peers.size();
  state_->inherited_keys.clear();
  for (const handover::Peer& peer : from.peers) state_->inherited_keys.push_back(peer.tunnel.public_key.bytes);
  std::vector<PortIndex> ports;
  for (const std::string& name : from.ports) {
    const auto& ours = state_->path.ports;
    const auto found = std::find_if(ours.begin(), ours.end(), [&](const auto& port) { return port.name == name; });
    ports.push_back(found == ours.end() ? kNoPort : static_cast<PortIndex>(found - ours.begin()));
  }
  state_->slow_path->inherit(from, ports, read_clock());
}

WarmStart Engine::inherit_flows(const handover::State& from) {
  WarmStart& warm = *state_->warm;
  warm.sessions = state_->slow_path->forget_inherited();
  std::vector<PeerIndex> peers;
  for (const KeyBytes& key : state_->inherited_keys)
    peers.push_back(state_->slow_path->find_peer(key).value_or(kNoPeer));
  state_->inherited_keys.clear();
  const Now now = read_clock();
  for (const handover::Flow& one : from.flows) {
    nat::FlowHandover flow = one.flow;
    flow.peer = flow.peer < peers.size() ? peers[flow.peer] : kNoPeer;
    // Workers share ports by their number: another number, and a flow's answers would come to another worker.
    const bool same = from.workers == state_->config.workers && one.worker < state_->workers.size();
    if (same && flow.peer != kNoPeer && state_->workers[one.worker]->translator->import_flow(flow, now))
      ++warm.flows;
    else
      ++warm.flows_left;
  }
  return warm;
}

}  // namespace penstock::runtime
