#include "controlplane/core/gateway_agent/puncher.h"

#include <algorithm>
#include <array>

namespace penstock::gateway_agent {
namespace {

using namespace std::chrono_literals;

constexpr Duration kRoundInterval = 1s;
constexpr Duration kWindow = 60s;
constexpr Duration kOutOfBudget = 20ms;
// Close together at first: an early one reaches a relay before the client has got its permission there, and only what
// gets through tells the client by which port the gateway's NAT lets it in.
constexpr std::array<Duration, kPunchesPerRound - 1> kGaps{6ms, 7ms, 9ms, 15ms, 40ms, 200ms, 1500ms};

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
    if (!fresh && now - target->second.round_started < kRoundInterval) continue;
    target->second.round_started = now;
    target->second.sent_in_round = 0;
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
    while (!target.sent.empty() && now - target.sent.front() >= kWindow) target.sent.pop_front();
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
    const unsigned nth = target.sent_in_round++;
    schedule(id, target, nth < kGaps.size() ? now + kGaps[nth] : kNever);
  }
}

void Puncher::schedule(const Id& id, Target& target, Instant at) {
  due_.erase({target.next, id});
  target.next = at;
  if (at != kNever) due_.insert({at, id});
}

}  // namespace penstock::gateway_agent
