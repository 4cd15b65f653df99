// PathAgent: how long packets may be on the paths in use (size_search.h).
#include <algorithm>

#include "controlplane/core/paths/path_agent.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::paths {

// Which path's length counts: the primary's at once, the standby's when it is known. Applications remember what they
// were told for ten minutes, and hardly anything goes over a standby while it is searched.
bool PathAgent::counts(const PathState& path) const {
  const Role is = role(path);
  return is == Role::primary || (is == Role::standby && !path.size.searching());
}

// What fits every path that is used now: also what the gateway is told, for the way back.
std::uint16_t PathAgent::inner_mtu() const {
  std::uint16_t out = inner_mtu_;
  for (const PathState& path : paths_)
    if (counts(path)) out = std::min(out, path.size.usable());
  return out;
}

// A question of its own beside the probes that tell of the path's health: its loss says nothing about that.
void PathAgent::send_sized_probe(PathState& path, std::uint16_t size) {
  wireguard::Probe probe;
  probe.path = path.number;
  probe.id = random_.next_u64();
  probe.sent_at = static_cast<std::uint64_t>(now_.time_since_epoch().count());
  probe.inner_mtu = inner_mtu();
  probe.sized = true;
  path.size.sent(probe.id, now_);
  emit(AgentEvent::Kind::send_probe, path.path,
       wireguard::make_sized_probe_packet(probe, wireguard::ControlDirection::to_gateway, size));
}

void PathAgent::ask_for_sizes() {
  for (PathState& path : paths_) {
    const bool used = path.alive() && role(path) != Role::none;
    if (!used)
      path.size.stop();
    else if (!path.size.running())
      path.size.run(now_);
    if (!path.size.running()) continue;
    const std::uint16_t before = path.size.usable();
    if (const auto size = path.size.poll(now_, path.limit(), path.last_received, mode(now_) == Mode::busy))
      send_sized_probe(path, *size);
    // The gateway has to know at once: what it sends meanwhile does not arrive.
    if (path.size.usable() < before) path.not_before = path.last_probe = kLongAgo;
  }
}

void PathAgent::handle_sized_reply(const wireguard::Probe& probe, std::size_t size) {
  PathState* path = session_ ? find(probe.path) : nullptr;
  if (path != nullptr && path->size.asking() != 0 && size >= path->size.asking()) path->size.answered(probe.id, now_);
}

}  // namespace penstock::paths
