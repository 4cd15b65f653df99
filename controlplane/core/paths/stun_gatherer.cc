#include "controlplane/core/paths/stun_gatherer.h"

#include <algorithm>
#include <utility>

namespace penstock::paths {
namespace {

constexpr std::size_t kMaxAsked = 8;
constexpr unsigned kTickGivesUp = 5;  // unanswered requests after which another server becomes the tick

}  // namespace

void StunGatherer::set_targets(std::span<const Endpoint> sockets, std::span<const Endpoint> servers, Instant now) {
  std::vector<Target> targets;
  for (const Endpoint& local : sockets)
    for (const Endpoint& server : servers) {
      if (local.address.is_v4() != server.address.is_v4() || targets.size() >= kMaxTargets) continue;
      const auto same = [&](const Target& t) { return t.local == local && t.server == server; };
      if (std::any_of(targets.begin(), targets.end(), same)) continue;
      const auto known = std::find_if(targets_.begin(), targets_.end(), same);
      if (known != targets_.end()) {
        targets.push_back(std::move(*known));
        targets_.erase(known);
      } else {
        Target& target = targets.emplace_back();
        target.local = local;
        target.server = server;
        target.next = now;
      }
    }
  targets_ = std::move(targets);
  handle_timeout(now);
}

void StunGatherer::restart(Instant now) {
  for (Target& target : targets_) {
    target.mapped.reset();
    target.suspected.reset();
    target.asked.clear();
    target.unanswered = 0;
    target.next = now;
  }
  handle_timeout(now);
}

void StunGatherer::verify(Instant now) {
  for (Target& target : targets_) {
    const bool tick = is_tick(target);
    if ((tick || target.mapped) && now - target.last_asked >= (tick ? kBusyTick / 3 : kBusyTick * 3)) ask(target, now);
  }
}

void StunGatherer::set_pace(Pace pace, Instant now) {
  if (pace == pace_) return;
  const bool faster = pace < pace_;
  pace_ = pace;
  if (!faster) return;
  for (Target& target : targets_)
    if (is_tick(target)) target.next = std::min(target.next, target.last_asked + interval(target));
  handle_timeout(now);
}

// Of the pairs of one socket, the first that answers; the order is the portal's.
bool StunGatherer::is_tick(const Target& target) const {
  for (const Target& other : targets_) {
    if (other.local != target.local || !other.mapped || other.unanswered >= kTickGivesUp) continue;
    return &other == &target;
  }
  return false;
}

Duration StunGatherer::interval(const Target& target) const {
  if (is_tick(target)) {
    if (pace_ == Pace::busy) return kBusyTick;
    return pace_ == Pace::active ? kActiveTick : kIdleTick;
  }
  if (target.mapped && target.unanswered == 0) return kOtherServers;
  // Not (or no longer) answering: 250 ms, 500 ms, … for ever.
  const bool soon = target.rtt && target.unanswered < kSoonRetries;
  return std::min(soon ? kSoonRetry : kMaxRetry,
                  kFirstRetry * (1 << std::min(target.unanswered > 0 ? target.unanswered - 1 : 0U, 7U)));
}

void StunGatherer::ask(Target& target, Instant now) {
  Asked asked{.at = now};
  random_.fill(asked.id);
  std::vector<std::uint8_t> bytes(64);
  bytes.resize(stun::build_binding_request(bytes, asked.id).size());
  output_.push_back({std::move(bytes), target.local, target.server});
  target.asked.push_back(asked);
  if (target.asked.size() > kMaxAsked) target.asked.pop_front();
  ++target.unanswered;
  target.last_asked = now;
  target.next = now + interval(target);
}

DropReason StunGatherer::handle_response(const stun::Message& message, const Endpoint& local, const Endpoint& server,
                                         Instant now) {
  const auto target = std::find_if(targets_.begin(), targets_.end(),
                                   [&](const Target& t) { return t.local == local && t.server == server; });
  if (target == targets_.end()) return DropReason::stun_unexpected;
  const auto asked = std::find_if(target->asked.begin(), target->asked.end(),
                                  [&](const Asked& a) { return a.id == message.transaction_id(); });
  if (asked == target->asked.end()) return DropReason::stun_unexpected;
  const Duration sample = now - asked->at;
  target->asked.erase(target->asked.begin(), asked + 1);  // older answers would be news of yesterday
  const auto mapped = message.mapped_address();
  // An error, or an address in the other family (a translator on the way rewrote it), tells nothing.
  if (message.message_class() != stun::Class::success || !mapped || mapped->address.is_v4() != local.address.is_v4())
    return DropReason::local_consumed;

  if (target->unanswered >= kTickGivesUp - 2) returned_.push_back(server);
  target->unanswered = 0;
  target->rtt = target->rtt ? (*target->rtt * 7 + sample) / 8 : sample;
  if (!target->mapped) {
    target->mapped = mapped;
  } else if (*target->mapped == *mapped) {
    target->suspected.reset();
  } else if (target->suspected == mapped) {
    target->mapped = mapped;
    target->suspected.reset();
    moved_.push_back({local, server, *mapped});
  } else {
    // The second opinion need not wait for the tick, but a mapping that differs every time gets no further hurry.
    const bool first = !target->suspected;
    target->suspected = mapped;
    if (first) {
      ask(*target, now);
      return DropReason::local_consumed;
    }
  }
  if (!target->suspected) target->confirmed = now;
  target->next = std::max(now, target->last_asked + interval(*target));
  return DropReason::local_consumed;
}

std::vector<Endpoint> StunGatherer::reflexive(Instant now) const {
  std::vector<Endpoint> out;
  for (const Target& target : targets_)
    if (target.mapped && now - target.confirmed < kStale &&
        std::find(out.begin(), out.end(), *target.mapped) == out.end())
      out.push_back(*target.mapped);
  return out;
}

std::optional<Duration> StunGatherer::rtt(const Endpoint& server) const {
  for (const Target& target : targets_)
    if (target.server == server && target.rtt && target.unanswered < kTickGivesUp) return target.rtt;
  return std::nullopt;
}

std::optional<StunGatherer::Moved> StunGatherer::poll_moved() {
  if (moved_.empty()) return std::nullopt;
  const Moved out = moved_.front();
  moved_.pop_front();
  return out;
}

std::optional<Endpoint> StunGatherer::poll_returned() {
  if (returned_.empty()) return std::nullopt;
  const Endpoint out = returned_.front();
  returned_.pop_front();
  return out;
}

std::optional<Transmit> StunGatherer::poll_transmit() {
  if (output_.empty()) return std::nullopt;
  Transmit out = std::move(output_.front());
  output_.pop_front();
  return out;
}

Deadline StunGatherer::poll_timeout() const {
  Deadline out;
  for (const Target& target : targets_) {
    out.merge(target.next, "STUN binding");
    if (target.mapped) out.merge(target.confirmed + kStale, "STUN mapping goes stale");
  }
  return out;
}

void StunGatherer::handle_timeout(Instant now) {
  for (Target& target : targets_) {
    if (target.mapped && now >= target.confirmed + kStale) {
      target.mapped.reset();
      target.suspected.reset();
    }
    if (now >= target.next) ask(target, now);
  }
}

}  // namespace penstock::paths
