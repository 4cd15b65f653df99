// PathAgent: sessions, suspicion, and the choice of primary and standby.
#include "controlplane/core/paths/path_agent.h"

#include <algorithm>
#include <utility>

namespace penstock::paths {

using namespace std::chrono_literals;
using State = PathInfo::State;

namespace {

constexpr Duration kStableSameKind = 5s;
constexpr Duration kStableRelay = 10s;
constexpr Duration kPenalty = 5s;
constexpr Duration kMaxPenalty = 60s;
constexpr Duration kForgivenAfter = 60s;
constexpr Duration kHintPause = 2s;
constexpr Duration kMinRecheck = 25ms;
constexpr std::size_t kResendBite = 16;
constexpr Duration kResendPause = 3ms;  // what a busy relay keeps up with while the gateway's copies come as well
constexpr Duration kLongestHold = 300ms;  // for a primary whose answers usually take long

bool answered_since(const PathState& path, Instant then) {
  return path.last_reply > then && path.proven >= then;
}

}  // namespace

PathAgent::PathAgent(Random& random, bool allow_loopback, std::vector<Prefix> forbidden, std::uint16_t inner_mtu)
    : random_(random), allow_loopback_(allow_loopback), forbidden_(std::move(forbidden)), inner_mtu_(inner_mtu) {}

void PathAgent::emit(AgentEvent::Kind kind, const Path& path, std::vector<std::uint8_t> bytes) {
  events_.push_back({kind, path, std::move(bytes), {}});
}

void PathAgent::emit_changed(const Path& path, std::string_view why) {
  last_switch_ = PathSwitch{path, why, now_};
  events_.push_back({AgentEvent::Kind::path_changed, path, {}, why});
}

// ---- what happens to us ----

void PathAgent::set_bases(std::span<const LocalBase> bases, bool roamed, Now time) {
  const Instant now = advance(time);
  bases_.assign(bases.begin(), bases.end());
  rebuild_pairs(now);
  restart_checks(now);
  if (roamed)
    for (PathState& path : paths_) path.size = SizeSearch{inner_mtu_};  // another network
  if (!session_) return;
  if (primary_ == 0)
    choose(time);
  else if (roamed)
    begin_suspicion(time);
}

void PathAgent::handle_punch(const Path& path, Now time) {
  const Instant now = advance(time);
  // Anybody can send a punch; only addresses we were told of count, and each path is checked at its own pace.
  const bool told = std::any_of(candidates_.begin(), candidates_.end(),
                                [&](const Candidate& c) { return c.endpoint.address == path.remote.address; }) ||
                    std::find(reached_.begin(), reached_.end(), path.remote.address) != reached_.end();
  if (!told) return;
  PathState* known = learn(path, now);
  if (known == nullptr || known->alive()) return;
  if (known->last_probe != kLongAgo && now - known->last_probe < 50ms) return;
  known->tries = 0;
  known->not_before = now;
}

void PathAgent::handle_session_up(const Path& path, Now time) {
  const Instant now = advance(time);
  const bool fresh = !session_;
  session_ = true;
  PathState* via = learn(path, now);
  if (via == nullptr) via = find(path) != nullptr ? find(path) : add_path(path, true, now);
  if (via == nullptr) return;
  via->last_received = now;
  note_reached(via->path);
  if (fresh) {
    ring_.clear();
    if (last_data_ == kLongAgo) last_data_ = now - kBusyFor;  // somebody wanted this session: active, not idle
    restart_checks(now);
  }
  if (!fresh && !suspected_at_ && primary_ != 0) return;
  // A handshake went both ways over it.
  if (!via->alive()) {
    via->state = State::alive;
    via->alive_since = now;
    via->outstanding.clear();
    emit(AgentEvent::Kind::path_alive, path);
  }
  if (via->number != primary_)
    make_primary(*via, fresh ? "the handshake was answered over it" : "a new handshake was answered over it", time);
  else
    end_suspicion(now);
  choose_standby();
}

void PathAgent::handle_session_down(Now time) {
  advance(time);
  session_ = false;
  for (PathState& path : paths_) {
    path.state = State::unproved;
    path.outstanding.clear();
    path.last_probe = kLongAgo;
    path.tries = path.streak = 0;
  }
  primary_ = standby_ = 0;
  suspected_at_.reset();
  ring_.clear();
  resend_to_ = 0;
  resend_next_ = kNever;
}

void PathAgent::note_received(const Path& path, bool is_data, Now time) {
  const Instant now = advance(time);
  if (is_data) last_data_ = now;
  const bool fresh = session_ && find(path) == nullptr;
  PathState* known = session_ ? learn(path, now) : find(path);
  if (known == nullptr) return;
  // The gateway by another port than a path we keep has, on the same way: its NAT has forgotten the mappings we use.
  const auto renumbers = [&](const PathState& p) {
    return p.alive() && role(p) != Role::none && p.path.relay == path.relay && p.path.local == path.local &&
           p.path.remote.address == path.remote.address && p.path.remote.port != path.remote.port;
  };
  if (fresh && !suspected_at_ && primary_ != 0 && std::any_of(paths_.begin(), paths_.end(), renumbers)) {
    find(path)->last_received = now;
    return begin_suspicion(time);
  }
  known->last_received = now;
  // One direction works again: see at once whether the other does.
  if (session_ && !known->alive() && (known->last_probe == kLongAgo || now - known->last_probe >= kMinRecheck)) {
    known->tries = 0;
    known->not_before = now;
  }
}

void PathAgent::handle_resume(Now time) {
  const Instant now = advance(time);
  for (PathState& path : paths_) path.outstanding.clear();
  restart_checks(now);
  if (session_ && primary_ != 0) begin_suspicion(time);
}

void PathAgent::verify(Now time) {
  advance(time);
  if (session_ && primary_ != 0 && !suspected_at_) begin_suspicion(time);
}

void PathAgent::handle_hint(const Endpoint& remote, Now time) {
  const Instant now = advance(time);
  const PathState* used = find(primary_);
  if (!session_ || suspected_at_ || used == nullptr || !used->alive() || !used->direct() || used->path.remote != remote)
    return;
  if (last_hint_ != kLongAgo && now - last_hint_ < kHintPause) return;  // whoever sends many is not believed more
  last_hint_ = now;
  begin_suspicion(time);
}

void PathAgent::kick_relay(std::uint32_t relay, Now time) {
  const Instant now = advance(time);
  for (PathState& path : paths_) {
    if (path.path.relay != relay || path.alive()) continue;
    path.tries = 0;
    path.not_before = now;
  }
  emit(AgentEvent::Kind::path_list);
}

// ---- data ----

std::span<const Path> PathAgent::data_paths(Bytes sealed, Now time) {
  const Instant now = advance(time);
  last_data_ = now;
  const PathState* first = session_ ? find(primary_) : nullptr;
  if (first == nullptr) return {};
  route_[0] = first->path;
  std::size_t ways = 1;
  // While older packets still wait for their second copy, this one queues behind them in the ring.
  const bool waiting = resend_next_ != kNever;
  const PathState* second =
      suspected_at_ && !waiting && now - *suspected_at_ < kDuplicateFor ? find(standby_) : nullptr;
  if (second != nullptr && second->alive() && budget_.take(sealed.size(), now)) {
    route_[1] = second->path;
    ways = 2;
  }
  ResendRing::Packet& kept = ring_.push(sealed, primary_, now);
  if (ways == 2) {
    kept.copied_over = standby_;
    kept.copied = now;
  }
  // Without a suspicion nothing is in doubt; when the next one begins all is looked at again.
  kept.waiting = ways == 1 && suspected_at_.has_value();
  return {route_.data(), ways};
}

// Over `path`, which carries what is sent from `since` on: everything it has not carried since then.
void PathAgent::resend_over(const PathState& path, Instant since, Instant now) {
  resend_to_ = path.number;
  resend_until_ = now + kDuplicateFor;
  ring_.drop_sent_before(now - kOldestResend);
  ring_.doubt(path.number, since);
  run_resends(now);
}

// The primary answers again before anybody called it suspect: what went either way meanwhile is in doubt.
void PathAgent::after_a_gap(const PathState& path, Instant since, Instant now) {
  resend_over(path, since, now);
  tell_doubt_ = true;
}

void PathAgent::run_resends(Instant now) {
  resend_next_ = kNever;
  const PathState* to = find(resend_to_);
  if (to == nullptr || now >= resend_until_) {
    resend_to_ = 0;
    ring_.give_up();
    return;
  }
  // In bites: sockets on the way hold a few hundred small packets, and what does not fit there is lost for good.
  std::size_t bite = 0;
  for (ResendRing::Packet& packet : ring_.packets()) {
    if (!packet.waiting) continue;
    if (bite++ == kResendBite) {
      resend_next_ = now + kResendPause;
      return;
    }
    if (!budget_.take(packet.bytes.size(), now)) {
      resend_next_ = budget_.next(packet.bytes.size(), now);
      return;
    }
    packet.waiting = false;
    packet.copied_over = resend_to_;
    packet.copied = now;
    emit(AgentEvent::Kind::resend, to->path, packet.bytes);
  }
}

// ---- suspicion ----

void PathAgent::begin_suspicion(Now time) {
  if (suspected_at_) {
    // Something happened again (roaming, resume): look at everything anew, but let the clock run.
    said_unreachable_ = false;
    unreachable_at_ = now_ + kUnreachable;
  } else {
    suspected_at_ = now_;
    doubted_ = now_;
    said_unreachable_ = false;
    stalled_at_ = now_ + kStalled;
    unreachable_at_ = now_ + kUnreachable;
  }
  tell_doubt_ = true;
  PathState* failing = find(primary_);
  if (failing == nullptr) return;
  failing->state = State::suspect;
  failing->tries = 0;
  failing->not_before = now_;
  failing->streak = 0;
  for (PathState& path : paths_)
    if (path.alive()) send_probe(path, time);
  restart_checks(now_);
  choose_standby();
  if (const PathState* second = find(standby_); second != nullptr && second->alive()) resend_over(*second, now_, now_);
  emit(AgentEvent::Kind::suspect, failing->path);
}

void PathAgent::end_suspicion(Instant) {
  suspected_at_.reset();
  said_unreachable_ = false;
  stalled_at_ = unreachable_at_ = kNever;
}

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

// ---- choice ----

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
  // A primary left for a better one with an answer overdue: what was sent over it since it last proved itself is in doubt.
  const PathState* left = find(primary_);
  const bool overdue = left != nullptr && !suspected_at_ && left->overdue(now_);
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

std::optional<AgentEvent> PathAgent::poll_event() {
  if (events_.empty()) return std::nullopt;
  AgentEvent out = std::move(events_.front());
  events_.pop_front();
  return out;
}

}  // namespace penstock::paths
