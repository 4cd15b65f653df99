// One path of a gateway as its agent knows it: round-trip time, loss, unanswered probes. RTT as RFC 6298 smooths it.
// Times are the agent's monotonic clock. Plain data with the arithmetic that belongs to it; one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "controlplane/core/paths/connectivity.h"
#include "controlplane/core/paths/size_search.h"
#include "controlplane/core/paths/types.h"

namespace penstock::paths {

inline constexpr Duration kMinSuspicion = std::chrono::milliseconds{200};
inline constexpr Duration kSuspicionWithoutRtt = std::chrono::milliseconds{400};
// A primary that is busy is asked every 50 ms: answers count that take four seconds.
inline constexpr std::size_t kMaxOutstanding = 80;
inline constexpr Instant kLongAgo = Instant::min();

struct PathState {
  using State = PathInfo::State;

  struct Outstanding {
    std::uint64_t id;
    Instant at;
  };

  Path path;
  std::uint16_t number = 0;  // in probes; unique among the agent's paths, never 0
  bool learned = false;      // peer-reflexive, not from the gateway's list
  State state = State::unproved;
  std::optional<Duration> srtt;
  Duration rttvar{};
  unsigned loss_permille = 0;  // smoothed over about sixteen probes
  std::deque<Outstanding> outstanding;  // the latest of them
  Instant unanswered{};                 // when the first was sent that is not answered; only with outstanding ones
  Instant not_before{};  // staggers checks
  Instant last_probe = kLongAgo;
  Instant last_reply = kLongAgo;
  Instant last_received = kLongAgo;  // anything authenticated
  Instant proven = kLongAgo;         // when the newest answered probe was sent
  Instant alive_since{};
  unsigned tries = 0;    // probes since an answer or since checks were started anew
  unsigned streak = 0;   // answers in a row
  unsigned skipped = 0;  // unanswered probes before the one answered last
  unsigned demotions = 0;
  SizeSearch size{SizeSearch::kBase};
  Instant penalty_until = kLongAgo;  // after failing as primary: not chosen again merely for being better

  [[nodiscard]] bool direct() const { return path.relay == 0; }
  [[nodiscard]] bool alive() const { return state == State::alive; }

  // How long an answer may take before its absence means something.
  [[nodiscard]] Duration limit() const { return srtt ? std::max(kMinSuspicion, *srtt * 3) : kSuspicionWithoutRtt; }

  // When the oldest unanswered probe is to be judged; kNever without one. Other traffic of the path puts the judgement
  // off (late answers under load are no loss), but not for ever: one direction may be dead.
  [[nodiscard]] Instant judged_at() const {
    if (outstanding.empty()) return kNever;
    const Instant plain = unanswered + limit();
    if (last_received == kLongAgo) return plain;
    return std::max(plain, std::min(last_received + limit(), unanswered + limit() * 4));
  }

  // An answer is later than answers of this path are; not late enough to judge it by.
  [[nodiscard]] bool overdue(Instant now) const {
    return !outstanding.empty() && srtt &&
           now - unanswered > *srtt + std::max(rttvar * 4, Duration{std::chrono::milliseconds{5}});
  }

  // Was asked no later than then, and has not answered.
  [[nodiscard]] bool asked_before(Instant then) const { return !outstanding.empty() && unanswered <= then; }

  void sent(std::uint64_t id, Instant now) {
    if (outstanding.empty()) unanswered = now;
    outstanding.push_back({id, now});
    if (outstanding.size() > kMaxOutstanding) {
      outstanding.pop_front();
      note_loss(true);
    }
    last_probe = now;
    ++tries;
  }

  // When the probe that is answered was sent; nullopt when it is none of ours or was answered before.
  std::optional<Instant> answered(std::uint64_t id, Instant now) {
    const auto at =
        std::find_if(outstanding.begin(), outstanding.end(), [&](const Outstanding& o) { return o.id == id; });
    if (at == outstanding.end()) return std::nullopt;
    const Instant sent_at = at->at;
    const Duration sample = now - sent_at;
    if (!srtt) {
      srtt = sample;
      rttvar = sample / 2;
    } else {
      const Duration difference = sample > *srtt ? sample - *srtt : *srtt - sample;
      rttvar = (rttvar * 3 + difference) / 4;
      srtt = (*srtt * 7 + sample) / 8;
    }
    // Older ones: still on the way if young, else lost.
    skipped = static_cast<unsigned>(at - outstanding.begin());
    for (unsigned i = 0; i < skipped; ++i) note_loss(true);
    outstanding.erase(outstanding.begin(), at + 1);
    if (!outstanding.empty()) unanswered = outstanding.front().at;
    note_loss(false);
    last_reply = last_received = now;
    proven = std::max(proven, sent_at);
    tries = 0;
    ++streak;
    return sent_at;
  }

  void give_up_outstanding() {
    for (std::size_t i = 0; i < outstanding.size(); ++i) note_loss(true);
    outstanding.clear();
    streak = 0;
  }

  void note_loss(bool lost) { loss_permille = (loss_permille * 15 + (lost ? 1000U : 0U)) / 16; }
};

}  // namespace penstock::paths
