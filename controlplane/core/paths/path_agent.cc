// PathAgent: what happens to a session, suspicion, and what data goes over.
#include "controlplane/core/paths/path_agent.h"

#include <algorithm>
#include <utility>

namespace penstock::paths {

using namespace std::chrono_literals;
using State = PathInfo::State;

namespace {

constexpr Duration kHintPause = 2s;
constexpr Duration kMinRecheck = 25ms;
constexpr std::size_t kResendBite = 16;
constexpr Duration kResendPause = 3ms;  // what a busy relay keeps up with while the gateway's copies come as well

}  // namespace

PathAgent::PathAgent(Random& random, bool allow_loopback, std::vector<Prefix> forbidden, std::uint16_t inner_mtu)
    : random_(random), allow_loopback_(allow_loopback), forbidden_(std::move(forbidden)), inner_mtu_(inner_mtu) {}

void PathAgent::emit(AgentEvent::Kind kind, const Path& path, std::vector<std::uint8_t> bytes) {
  events_.push_back({kind, path, std::move(bytes)});
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
  const bool fresh = find(path) == nullptr;  // a new path gets its initiation for being new
  PathState* known = learn(path, now);
  if (known == nullptr || known->alive()) return;
  if (!fresh) emit(AgentEvent::Kind::punched, path);
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

void PathAgent::handle_hint(const Endpoint& remote, std::uint32_t relay, Now time) {
  const Instant now = advance(time);
  const PathState* used = find(primary_);
  if (!session_ || suspected_at_ || used == nullptr || !used->alive() || used->path.relay != relay) return;
  if (used->direct() && used->path.remote != remote) return;
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

void PathAgent::handle_relay_moved(std::uint32_t relay, Instant asked, Now time) {
  const Instant now = advance(time);
  for (const PathState& path : paths_) {
    if (path.path.relay != relay) continue;
    // Of a path that is not proved again the proof will do the rest.
    const bool carries = path.alive() && (path.number == primary_ || (path.number == standby_ && suspected_at_));
    if (!ring_.doubt_sent(path.number, asked, carries)) continue;
    repair_until_ = now + kDuplicateFor;
    resend_waiting(path, now);
  }
  kick_relay(relay, time);
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
  resend_until_ = repair_until_ = now + kDuplicateFor;
  ring_.drop_sent_before(now - kOldestResend);
  ring_.doubt(path.number, since);
  run_resends(now);
}

// The primary answers again before anybody called it suspect: what went either way meanwhile is in doubt.
void PathAgent::after_a_gap(const PathState& path, Instant since, Instant now) {
  resend_over(path, since, now);
  tell_doubt_ = true;
}

// What went over `path`, the primary, and is missed by the gateway although it should be there: queues on the way that
// ran over, mostly a relay's when everybody sends again at once.
void PathAgent::repair(const PathState& path, const wireguard::ReceptionReport& report, Instant proven, Instant now) {
  if (ring_.doubt_missing(report, proven)) resend_waiting(path, now);
}

// What began to wait beside a resend that is under way goes with it, where that goes.
void PathAgent::resend_waiting(const PathState& path, Instant now) {
  resend_until_ = now + kDuplicateFor;
  if (resend_next_ != kNever) return;
  resend_to_ = path.number;
  run_resends(now);
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
  repair_until_ = now_ + kDuplicateFor;
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

std::optional<AgentEvent> PathAgent::poll_event() {
  if (events_.empty()) return std::nullopt;
  AgentEvent out = std::move(events_.front());
  events_.pop_front();
  return out;
}

}  // namespace penstock::paths
