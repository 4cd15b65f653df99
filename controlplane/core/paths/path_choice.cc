// PathAgent: which path is the primary and which the standby.
#include <algorithm>
#include <utility>

#include "controlplane/core/paths/path_agent.h"

namespace penstock::paths {

using namespace std::chrono_literals;
using State = PathInfo::State;

namespace {

constexpr Duration kStableSameKind = 5s;
constexpr Duration kStableRelay = 10s;
constexpr Duration kPenalty = 5s;
constexpr Duration kMaxPenalty = 60s;
constexpr Duration kForgivenAfter = 60s;
constexpr Duration kLongestHold = 300ms;  // for a primary whose answers usually take long

bool answered_since(const PathState& path, Instant then) {
  return path.last_reply > then && path.proven >= then;
}

}  // namespace

// A path that answered what was asked after the suspicion began (what made us doubt may have ended it too, after an
// earlier answer had left); kNever when there is none yet. The primary gets the time its answers
// usually take, so that a slow one is not left for a hiccup.
Instant PathAgent::fail_over_at() const {
  if (!suspected_at_) return kNever;
  const bool answered = std::any_of(paths_.begin(), paths_.end(), [&](const PathState& p) {
    return p.alive() && p.number != primary_ && answered_since(p, *suspected_at_);
  });
  if (!answered) return kNever;
  const PathState* failing = find(primary_);
  const Duration usual = failing != nullptr && failing->srtt ? *failing->srtt * 3 / 2 : Duration{};
  return *suspected_at_ + std::min(usual, kLongestHold);
}

PathState* PathAgent::best_alive(std::uint16_t but_not) {
  PathState* best = nullptr;
  const auto cost = [](const PathState& p) { return p.srtt.value_or(1s) + std::chrono::milliseconds{p.loss_permille}; };
  for (PathState& path : paths_)
    if (path.alive() && path.number != but_not && (best == nullptr || cost(path) < cost(*best))) best = &path;
  return best;
}

bool PathAgent::better(const PathState& candidate, const PathState& used, Instant now) const {
  if (!candidate.alive() || candidate.number == used.number || now < candidate.penalty_until) return false;
  // What made us doubt the primary may have ended this path as well (the gateway's NAT forgot both): only what was
  // asked since then counts.
  if (!candidate.srtt || candidate.proven < doubted_) return false;
  const Duration theirs = *candidate.srtt;
  const bool steady_loss = candidate.loss_permille <= used.loss_permille + 50;
  // A path taken on a handshake's word may be one that only the answer came by (a NAT that gives another address to each
  // mapping): it gives way to one that was asked after it and has answered before.
  if (used.streak == 0 && used.asked_before(candidate.proven)) return true;
  if (!used.srtt) return candidate.direct() && !used.direct();
  const Duration ours = *used.srtt;
  // Direct as soon as it is proved, unless it is a real detour.
  if (candidate.direct() && !used.direct()) return steady_loss && (theirs <= ours + 5ms || theirs * 10 <= ours * 11);
  const Duration gain = ours - theirs;
  if (!candidate.direct() && used.direct()) {
    if (now - candidate.alive_since < kStableRelay || candidate.streak < 5) return false;
    return (gain >= 10ms && gain * 5 >= ours) || (used.loss_permille > 200 && candidate.loss_permille < 50);
  }
  if (now - candidate.alive_since < kStableSameKind || candidate.streak < 3 || !steady_loss) return false;
  return gain >= 10ms || (gain * 5 >= ours && gain >= 1ms);
}

void PathAgent::choose_standby() {
  const PathState* used = find(primary_);
  const PathState* current = find(standby_);
  // What fails otherwise than the primary does: another relay, or a relay beside a direct path.
  const auto apart = [&](const PathState& p) { return used == nullptr || p.path.relay != used->path.relay; };
  if (current != nullptr && current->alive() && current->number != primary_ && apart(*current)) return;
  PathState* best = nullptr;
  for (PathState& path : paths_) {
    if (!path.alive() || path.number == primary_) continue;
    if (best == nullptr ||
        std::pair{!apart(path), path.srtt.value_or(1s)} < std::pair{!apart(*best), best->srtt.value_or(1s)})
      best = &path;
  }
  standby_ = best == nullptr ? std::uint16_t{0} : best->number;
}

void PathAgent::make_primary(PathState& path, std::string_view why, Now time) {
  if (PathState* old = find(primary_); old != nullptr && !old->alive()) {
    old->give_up_outstanding();
    old->state = State::down;
    old->tries = 0;
    old->not_before = now_ + old->limit();
    old->penalty_until = now_ + std::min(kMaxPenalty, kPenalty * (1 << std::min(old->demotions, 4U)));
    ++old->demotions;
  }
  // A primary left for a better one with an answer overdue, or before it gave any: what was sent over it since it last
  // proved itself is in doubt.
  const PathState* left = find(primary_);
  const bool overdue = left != nullptr && !suspected_at_ &&
                       (left->overdue(now_) || (left->streak == 0 && left->asked_before(path.proven)));
  primary_ = path.number;
  if (standby_ == path.number) standby_ = 0;
  if (overdue && path.alive()) resend_over(path, path.proven, now_);
  emit_changed(path.path, why);
  if (path.alive() && suspected_at_) {
    resend_over(path, path.proven, now_);
    end_suspicion(now_);
  }
  send_probe(path, time);  // carries the switch
}

void PathAgent::choose(Now time) {
  const Instant now = now_;
  PathState* used = find(primary_);
  if (!session_) return;
  if (used == nullptr) {
    // The primary's socket or allocation is gone.
    PathState* next = best_alive(0);
    if (next == nullptr && !paths_.empty()) next = &paths_.front();
    if (next != nullptr) make_primary(*next, "the former's socket or allocation is gone", time);
    if (next != nullptr || !suspected_at_) begin_suspicion(time);
    return;
  }
  if (used->alive() && now - used->alive_since > kForgivenAfter) used->demotions = 0;
  if (suspected_at_) {
    if (now < fail_over_at()) {
      choose_standby();
      return;
    }
    PathState* next = nullptr;
    for (PathState& path : paths_) {
      if (!path.alive() || path.number == primary_ || !answered_since(path, *suspected_at_)) continue;
      if (next == nullptr || path.srtt < next->srtt) next = &path;
    }
    if (next != nullptr) make_primary(*next, "the former did not answer", time);
  } else {
    PathState* next = used;
    for (PathState& path : paths_)
      if (better(path, *next, now)) next = &path;
    if (next != used)
      make_primary(*next, next->direct() && !used->direct() ? "it is direct" : "it is better than the former", time);
  }
  choose_standby();
}

std::optional<Path> PathAgent::primary() const {
  const PathState* path = find(primary_);
  return path == nullptr ? std::nullopt : std::optional{path->path};
}

std::optional<Path> PathAgent::standby() const {
  const PathState* path = find(standby_);
  return path == nullptr ? std::nullopt : std::optional{path->path};
}

}  // namespace penstock::paths
