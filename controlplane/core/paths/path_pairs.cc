// PathAgent: which paths there are.
#include <algorithm>
#include <utility>

#include "controlplane/core/paths/path_agent.h"

namespace penstock::paths {

bool PathAgent::acceptable(const Endpoint& remote) const {
  return is_usable_candidate(remote, allow_loopback_) &&
         std::none_of(forbidden_.begin(), forbidden_.end(),
                      [&](const Prefix& p) { return p.contains(remote.address); });
}

bool PathAgent::has_base(const Path& path) const {
  return std::any_of(bases_.begin(), bases_.end(), [&](const LocalBase& base) {
    return base.local == path.local && base.relay == path.relay && base.v4 == path.remote.address.is_v4();
  });
}

PathState* PathAgent::find(const Path& path) {
  const auto at = std::find_if(paths_.begin(), paths_.end(), [&](const PathState& p) { return p.path == path; });
  return at == paths_.end() ? nullptr : &*at;
}

PathState* PathAgent::find(std::uint16_t number) {
  return const_cast<PathState*>(std::as_const(*this).find(number));
}

const PathState* PathAgent::find(std::uint16_t number) const {
  if (number == 0) return nullptr;
  const auto at = std::find_if(paths_.begin(), paths_.end(), [&](const PathState& p) { return p.number == number; });
  return at == paths_.end() ? nullptr : &*at;
}

PathState* PathAgent::add_path(const Path& path, bool learned, Instant now) {
  if (paths_.size() >= kMaxPaths) return nullptr;
  while (next_number_ == 0 || find(next_number_) != nullptr) ++next_number_;
  PathState& added = paths_.emplace_back();
  added.path = path;
  added.number = next_number_++;
  added.learned = learned;
  added.not_before = now;
  added.size = SizeSearch{inner_mtu_};
  return &added;
}

// Where an authenticated packet or a punch came from. The oldest learned path that is of no use makes room.
PathState* PathAgent::learn(const Path& path, Instant now) {
  if (PathState* known = find(path)) return known;
  if (!has_base(path) || !acceptable(path.remote)) return nullptr;
  const auto learned = static_cast<std::size_t>(
      std::count_if(paths_.begin(), paths_.end(), [](const PathState& p) { return p.learned; }));
  if (learned >= kMaxLearned || paths_.size() >= kMaxPaths) {
    const auto useless = std::find_if(paths_.begin(), paths_.end(), [&](const PathState& p) {
      return (p.learned || learned < kMaxLearned) && !p.alive() && role(p) == Role::none;
    });
    if (useless == paths_.end()) return nullptr;
    paths_.erase(useless);
  }
  PathState* added = add_path(path, true, now);
  emit(AgentEvent::Kind::path_list);
  return added;
}

void PathAgent::drop_paths(const std::vector<Path>& unwanted, Instant) {
  std::erase_if(paths_, [&](const PathState& p) {
    return std::find(unwanted.begin(), unwanted.end(), p.path) != unwanted.end();
  });
  if (find(primary_) == nullptr) primary_ = 0;
  if (find(standby_) == nullptr) standby_ = 0;
}

// A relay is out on the internet: it is asked to reach public addresses. A host address counts as one when the gateway
// is known to be seen under it, or when nothing tells or has ever told how it is seen. Besides being useless, a packet
// that a relay cannot route makes coturn give up on the whole allocation.
bool PathAgent::relayable(const Candidate& candidate) const {
  if (candidate.kind != CandidateKind::host) return true;
  bool seen_elsewhere = false;
  for (const Candidate& other : candidates_) {
    if (other.kind == CandidateKind::host || other.endpoint.address.is_v4() != candidate.endpoint.address.is_v4())
      continue;
    if (other.endpoint.address == candidate.endpoint.address) return true;
    seen_elsewhere = true;
  }
  // A list may be without what was seen: a gateway's control process that has just started does not know it yet.
  for (const IpAddress& address : reached_) {
    if (address.is_v4() != candidate.endpoint.address.is_v4()) continue;
    if (address == candidate.endpoint.address) return true;
    seen_elsewhere = true;
  }
  return !seen_elsewhere;
}

void PathAgent::rebuild_pairs(Instant now) {
  std::vector<Path> wanted;
  // Relays first: what they reach is what always works, so the bound must not cut them off.
  for (const bool relayed : {true, false})
    for (const Candidate& candidate : candidates_)
      for (const LocalBase& base : bases_)
        if ((base.relay != 0) == relayed && base.v4 == candidate.endpoint.address.is_v4() &&
            (!relayed || relayable(candidate)))
          wanted.push_back({base.local, candidate.endpoint, base.relay});

  std::vector<Path> unwanted;
  for (const PathState& p : paths_) {
    const bool listed = std::find(wanted.begin(), wanted.end(), p.path) != wanted.end();
    // A path without its socket or allocation is no more; one whose candidate was withdrawn stays while it works.
    if (!has_base(p.path) || (!listed && !p.learned && !p.alive() && role(p) == Role::none)) unwanted.push_back(p.path);
  }
  const std::size_t before = paths_.size();
  drop_paths(unwanted, now);
  bool changed = paths_.size() != before;
  for (const Path& path : wanted) {
    if (find(path) != nullptr) continue;
    if (add_path(path, false, now) == nullptr) break;
    changed = true;
  }
  if (changed) emit(AgentEvent::Kind::path_list);
}

void PathAgent::set_remote_candidates(std::span<const Candidate> candidates, Now time) {
  const Instant now = advance(time);
  std::vector<Candidate> kept;
  for (const Candidate& candidate : candidates) {
    if (kept.size() >= kMaxCandidates) break;
    if (!acceptable(candidate.endpoint)) continue;
    const bool known = std::any_of(kept.begin(), kept.end(),
                                   [&](const Candidate& other) { return other.endpoint == candidate.endpoint; });
    if (!known) kept.push_back(candidate);
  }
  candidates_ = std::move(kept);
  rebuild_pairs(now);
  restart_checks(now);
  if (session_ && primary_ == 0) choose(time);
}

// An allocation that is lost takes its paths along, and the gateway's list may be without the address meanwhile (its
// STUN servers were that relay): the next allocation has to let it in all the same.
void PathAgent::note_reached(const Path& path) {
  if (path.relay == 0) return;
  const IpAddress remote = path.remote.address;
  if (!reached_.empty() && reached_.front() == remote) return;
  std::erase(reached_, remote);
  reached_.insert(reached_.begin(), remote);
  if (reached_.size() > kMaxReached) reached_.pop_back();
}

std::vector<IpAddress> PathAgent::remote_addresses() const {
  std::vector<IpAddress> out;
  const auto add = [&](const IpAddress& address) {
    if (std::find(out.begin(), out.end(), address) == out.end()) out.push_back(address);
  };
  for (const Candidate& candidate : candidates_)
    if (relayable(candidate)) add(candidate.endpoint.address);
  for (const PathState& p : paths_)
    if (p.learned || !p.direct()) add(p.path.remote.address);
  for (const IpAddress& address : reached_) add(address);
  return out;
}

bool PathAgent::wants_family(bool v4) const {
  return std::any_of(candidates_.begin(), candidates_.end(),
                     [&](const Candidate& c) { return c.endpoint.address.is_v4() == v4; });
}

std::vector<Path> PathAgent::learned_paths() const {
  std::vector<Path> out;
  for (const PathState& p : paths_)
    if (p.learned) out.push_back(p.path);
  return out;
}

std::vector<Path> PathAgent::handshake_paths() const {
  std::vector<Path> out;
  // Learned remotes before listed ones: something came from there. Relays before direct paths.
  for (const bool relayed : {true, false})
    for (const bool learned : {true, false})
      for (const PathState& p : paths_)
        if (p.direct() != relayed && p.learned == learned) out.push_back(p.path);
  return out;
}

std::vector<PathInfo> PathAgent::show() const {
  std::vector<PathInfo> out;
  for (const PathState& p : paths_) {
    PathInfo info;
    info.path = p.path;
    info.role = p.number == primary_   ? PathInfo::Role::primary
                : p.number == standby_ ? PathInfo::Role::standby
                                       : PathInfo::Role::none;
    info.state = p.state;
    info.rtt = p.srtt.value_or(Duration{});
    info.loss_permille = p.loss_permille;
    info.mtu = p.size.usable();
    info.mtu_proved = p.size.proved();
    info.mtu_counts = counts(p);
    out.push_back(info);
  }
  return out;
}

}  // namespace penstock::paths
