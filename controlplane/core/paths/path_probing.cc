// PathAgent: when which path is probed, and what silence means.
#include <algorithm>

#include "controlplane/core/paths/path_agent.h"
#include "dataplane/core/wireguard/probe.h"

namespace penstock::paths {

using namespace std::chrono_literals;
using State = PathInfo::State;

namespace {

// paths.md "Timers". The primary's busy interval and kMinSuspicion together bound how late a failure is noticed.
struct Intervals {
  Duration busy, active, idle;
};
constexpr Intervals kPrimary{50ms, 1s, 25s};
constexpr Intervals kStandby{1s, 5s, 25s};
constexpr Intervals kOther{5s, 15s, 120s};

constexpr Duration kCheckFirst = 50ms;
constexpr Duration kCheckMax = 30s;
constexpr Duration kCheckMaxIdle = 120s;
constexpr Duration kCheckSpacing = 10ms;
constexpr unsigned kStandbyMisses = 3;
constexpr unsigned kSeldomLost = 100;  // permille: one of the last sixteen

Duration pick(const Intervals& intervals, PathAgent::Mode mode) {
  switch (mode) {
    case PathAgent::Mode::busy:
      return intervals.busy;
    case PathAgent::Mode::active:
      return intervals.active;
    case PathAgent::Mode::idle:
      break;
  }
  return intervals.idle;
}

}  // namespace

PathAgent::Role PathAgent::role(const PathState& path) const {
  if (path.number == primary_) return Role::primary;
  return path.number == standby_ ? Role::standby : Role::none;
}

// Idle only when nothing is amiss: a path that is being changed or lost keeps us awake (trap paths-5).
PathAgent::Mode PathAgent::mode(Instant now) const {
  if (last_data_ != kLongAgo && now - last_data_ < kBusyFor) return Mode::busy;
  if (suspected_at_ && !said_unreachable_) return Mode::active;
  if (last_data_ != kLongAgo && now - last_data_ < kActiveFor) return Mode::active;
  return Mode::idle;
}

Duration PathAgent::interval(const PathState& path, Instant now) const {
  const Mode current = mode(now);
  const Role is = role(path);
  if (is == Role::primary && suspected_at_) {
    if (path.tries < 12) return 50ms;
    if (path.tries < 24) return 200ms;
    if (path.tries < 40) return 1s;
    return current == Mode::idle ? 25s : 5s;
  }
  if (path.alive()) {
    Duration out = pick(is == Role::primary ? kPrimary : is == Role::standby ? kStandby : kOther, current);
    // One unanswered probe is asked again before it is judged, so a single lost packet is not taken for a dead path.
    if (!path.outstanding.empty()) out = std::min(out, std::max(path.limit() / 2, Duration{100ms}));
    if (suspected_at_ && path.tries < 20) out = std::min(out, Duration{50ms});
    return out;
  }
  const Duration backoff = kCheckFirst * (1 << std::min(path.tries > 0 ? path.tries - 1 : 0U, 12U));
  return std::min(backoff, current == Mode::idle ? kCheckMaxIdle : kCheckMax);
}

Instant PathAgent::probe_due(const PathState& path, Instant now) const {
  if (path.last_probe == kLongAgo || path.tries == 0) {
    // Never probed, or to be checked anew; an answered path waits for its interval.
    if (!path.alive() || path.last_probe == kLongAgo) return path.not_before;
  }
  return std::max(path.not_before, path.last_probe + interval(path, now));
}

void PathAgent::send_probe(PathState& path, Now time) {
  wireguard::Probe probe;
  probe.path = path.number;
  probe.id = random_.next_u64();
  probe.sent_at = static_cast<std::uint64_t>(now_.time_since_epoch().count());
  if (path.srtt) probe.rtt_us = static_cast<std::uint32_t>(std::min<Duration>(*path.srtt, 1000s) / 1us);
  probe.inner_mtu = inner_mtu();
  probe.doubt = tell_doubt_;  // of every path: several may lead through the same relay, and look alike to the gateway
  if (path.number == primary_) {
    // Higher than after any earlier start of this client: a restart must not leave the gateway waiting for a number
    // that never comes. One for each probe of a busy primary is the most we use for long; when the sum wraps in 2030
    // the new session alone says that we have started anew, as it does today.
    constexpr std::uint64_t kPerSecond = 1s / kPrimary.busy;
    constexpr std::uint64_t kEpoch = 1'704'067'200;  // 2024-01-01
    const std::uint64_t age = time.wall.seconds > kEpoch ? time.wall.seconds - kEpoch : 0;
    const auto floor = static_cast<std::uint32_t>(age * kPerSecond);
    if (switch_sequence_ == 0) switch_sequence_ = floor;
    probe.switch_sequence = ++switch_sequence_;
  }
  path.sent(probe.id, now_);
  probe.report = now_ < repair_until_;
  const std::size_t size = wireguard::kProbePacketSize + (probe.report ? wireguard::kReportSize : 0);
  auto packet = wireguard::make_sized_probe_packet(probe, wireguard::ControlDirection::to_gateway, size);
  emit(AgentEvent::Kind::send_probe, path.path, std::move(packet));
  events_.back().report = probe.report;
}

void PathAgent::restart_checks(Instant now) {
  Duration offset{};
  for (PathState& path : paths_) {
    if (path.alive()) continue;
    path.tries = 0;
    path.not_before = now + offset;
    offset += kCheckSpacing;
  }
}

// Silence of a path that was alive.
void PathAgent::judge(PathState& path, Instant now) {
  if (!path.alive() || now < std::max(path.judged_at(), grace_until_)) return;
  if (path.number == primary_) return;  // begin_suspicion() is the caller's
  if (path.tries < kStandbyMisses && !suspected_at_) return;
  path.give_up_outstanding();
  path.state = State::down;
  path.tries = 0;
  path.not_before = now + path.limit();
  if (path.number == standby_) standby_ = 0;
  emit(AgentEvent::Kind::path_silent, path.path);
}

DropReason PathAgent::handle_probe_reply(Bytes payload, Now time) {
  const Instant now = advance(time);
  const auto probe = wireguard::parse_probe(payload);
  if (!probe || probe->type != wireguard::ControlType::probe_reply) return DropReason::control_malformed;
  if (probe->sized) {
    handle_sized_reply(*probe, payload.size() + wireguard::kControlHeaderSize);
    ask_for_sizes();
    return DropReason::local_consumed;
  }
  PathState* path = session_ ? find(probe->path) : nullptr;
  const auto sent_at = path == nullptr ? std::nullopt : path->answered(probe->id, now);
  if (!sent_at) return DropReason::local_consumed;  // of a path that is no more, or a duplicate

  const auto report = probe->report ? wireguard::parse_report(payload) : std::nullopt;
  if (report) {
    reports_ = true;
    ring_.learn(*report);
  }
  if (!path->alive()) {
    // A suspect primary keeps its place in time; anything else starts a new life.
    if (path->state != State::suspect) path->alive_since = now;
    path->state = State::alive;
    note_reached(path->path);
    emit(AgentEvent::Kind::path_alive, path->path);
  }
  if (path->number == primary_) {
    if (probe->doubt) tell_doubt_ = false;  // the gateway knows
    if (suspected_at_) {
      resend_over(*path, *sent_at, now);
      const bool back = said_unreachable_;
      end_suspicion(now);
      if (back) emit_changed(path->path, "the gateway answers again");
    } else {
      // A gap too short to be noticed (a NAT that forgot us and was opened again by the other side's next packet): what
      // was sent within it is as much in doubt. One lost probe says so only where probes are seldom lost.
      if (path->skipped >= 2 || (path->skipped == 1 && path->loss_permille < kSeldomLost))
        after_a_gap(*path, *sent_at, now);
      const Instant proven = *sent_at - 20ms;  // reordering on the way
      if (report)
        repair(*path, *report, proven, now);
      else if (!reports_ || now >= repair_until_)
        ring_.confirm(proven);
    }
  }
  choose(time);
  ask_for_sizes();
  return DropReason::local_consumed;
}

Deadline PathAgent::poll_timeout() const {
  Deadline out;
  if (!session_) return out;
  for (const PathState& path : paths_) {
    out.merge(path.size.next_timeout(), "length of packets");
    out.merge(probe_due(path, now_), role(path) == Role::primary ? "probe of the primary" : "probe");
    // Not yet condemned ones are looked at again with their next probe.
    if (path.alive() && (path.number == primary_ ? !suspected_at_ : path.tries >= kStandbyMisses || suspected_at_))
      out.merge(std::max(path.judged_at(), grace_until_), "answer overdue");
  }
  out.merge(stalled_at_, "nothing answers");
  out.merge(unreachable_at_, "gateway unreachable");
  out.merge(fail_over_at(), "fail-over");
  out.merge(resend_next_, "resend");
  return out;
}

void PathAgent::judge_all(Now time) {
  const Instant now = now_;
  for (PathState& path : paths_) judge(path, now);
  const PathState* primary_path = find(primary_);
  if (primary_path != nullptr && primary_path->alive() && !suspected_at_ &&
      now >= std::max(primary_path->judged_at(), grace_until_))
    begin_suspicion(time);
  const bool nothing = std::none_of(paths_.begin(), paths_.end(), [](const PathState& p) { return p.alive(); });
  // With something alive a fail-over is near; look again in a while.
  if (now >= stalled_at_) {
    stalled_at_ = nothing ? kNever : now + kMinSuspicion;
    if (nothing) emit(AgentEvent::Kind::stalled);
  }
  if (now >= unreachable_at_) {
    unreachable_at_ = nothing ? kNever : now + kMinSuspicion;
    if (nothing) {
      said_unreachable_ = true;
      if (PathState* failed = find(primary_)) failed->state = State::down;
      emit(AgentEvent::Kind::unreachable);
    }
  }
  choose(time);
  ask_for_sizes();
  for (PathState& path : paths_)
    if (now >= probe_due(path, now)) send_probe(path, time);
  for (PathState& path : paths_) judge(path, now);
}

void PathAgent::handle_timeout(Now time) {
  const Instant expected = poll_timeout().at;
  const Instant now = advance(time);
  if (!session_) return;
  // Called late: answers may lie unread in the socket, so nothing is judged before they were read (trap paths-10).
  if (expected != kNever && now - expected > 50ms) grace_until_ = now + 30ms;

  // Judging one path may make another the primary, which is then judged by the primary's rules: a second look.
  for (int look = 0; look < 3; ++look) {
    judge_all(time);
    if (poll_timeout().at > now) break;
  }
  run_resends(now);
}

}  // namespace penstock::paths
