#include "controlplane/core/gateway_agent/puncher.h"

#include <algorithm>
#include <array>
#include <bit>

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kRoundInterval = 1s;
constexpr Duration kWindow = 60s;
constexpr Duration kOutOfBudget = 20ms;
// Close together at first: an early one reaches a relay before the client has got its permission there, and only what
// gets through tells the client by which port the gateway's NAT lets it in.
constexpr std::array<Duration, kPunchesPerRound> kTimes{0ms, 6ms, 13ms, 22ms, 37ms, 77ms, 277ms, 1777ms};
// Which of them, of a round that may have so many: a client that moves for the third time in a minute needs one as well.
// Bit 0 is the first.
constexpr std::array<std::uint8_t, kPunchesPerRound + 1> kChosen{0,           0b0010'0000, 0b0101'0000,
                                                                 0b0110'0100, 0b1110'0100, 0b1101'0101,
                                                                 0b1111'0101, 0b1111'1101, 0b1111'1111};

}  // namespace

void Puncher::set_targets(const Key& peer, const std::vector<Endpoint>& targets, Instant now) {
  auto& known = peers_[peer];
  std::set<Endpoint> wanted;
  for (const Endpoint& target : targets) {
    if (wanted.size() >= kMaxTargetsPerPeer) break;
    wanted.insert(target);
  }
  // One that is gone keeps its history for a minute, or naming it again would be a way around the limit.
  for (auto it = known.begin(); it != known.end();) {
    const bool idle = it->second.sent.empty() || now - it->second.sent.back() > kWindow;
    if (!wanted.contains(it->first)) schedule({peer, it->first}, it->second, kNever);
    it = !wanted.contains(it->first) && (idle || known.size() > 8 * kMaxTargetsPerPeer) ? known.erase(it) : ++it;
  }
  for (const Endpoint& endpoint : wanted) {
    const auto [target, fresh] = known.try_emplace(endpoint);
    if (fresh || now - target->second.round_started >= kRoundInterval)
      begin_round({peer, endpoint}, target->second, now);
    else if (target->second.chosen != 0)  // the last of a round keeps its time
      schedule({peer, endpoint}, target->second, now);
  }
  if (known.empty()) peers_.erase(peer);
  handle_timeout(now);
}

void Puncher::remove(const Key& peer) {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return;
  for (auto& [endpoint, target] : found->second) schedule({peer, endpoint}, target, kNever);
  peers_.erase(found);
}

std::optional<Endpoint> Puncher::poll() {
  if (out_.empty()) return std::nullopt;
  const Endpoint out = out_.front();
  out_.pop_front();
  return out;
}

Deadline Puncher::poll_timeout() const {
  if (due_.empty()) return {};
  return {due_.begin()->first, "hole punching"};
}

void Puncher::handle_timeout(Instant now) {
  tokens_ =
      std::min(kPunchesPerSecond, tokens_ + std::chrono::duration<double>(now - counted_).count() * kPunchesPerSecond);
  counted_ = now;
  while (!due_.empty() && due_.begin()->first <= now) {
    const Id id = due_.begin()->second;
    Target& target = peers_.at(id.first).at(id.second);
    forget_old(target, now);
    if (target.sent.size() >= kMaxPunchesPerMinute) {
      schedule(id, target, kNever);
      continue;
    }
    if (tokens_ < 1) {
      schedule(id, target, now + kOutOfBudget);
      continue;
    }
    tokens_ -= 1;
    out_.push_back(id.second);
    target.sent.push_back(now);
    schedule_next(id, target, now);
  }
}

// Half of what is left of the minute's, so that something is left for the next round.
void Puncher::begin_round(const Id& id, Target& target, Instant now) {
  forget_old(target, now);
  const std::size_t left = kMaxPunchesPerMinute - target.sent.size();
  target.round_started = now;
  target.chosen = kChosen[std::min<std::size_t>((left + 1) / 2, kPunchesPerRound)];
  schedule_next(id, target, now);
}

void Puncher::schedule_next(const Id& id, Target& target, Instant now) {
  if (target.chosen == 0) return schedule(id, target, kNever);
  const int nth = std::countr_zero(target.chosen);
  target.chosen = static_cast<std::uint8_t>(target.chosen & (target.chosen - 1U));
  schedule(id, target, std::max(now, target.round_started + kTimes[static_cast<std::size_t>(nth)]));
}

void Puncher::forget_old(Target& target, Instant now) {
  while (!target.sent.empty() && now - target.sent.front() >= kWindow) target.sent.pop_front();
}

void Puncher::schedule(const Id& id, Target& target, Instant at) {
  due_.erase({target.next, id});
  target.next = at;
  if (at != kNever) due_.insert({at, id});
}

}  // namespace penstock::gateway_agent
