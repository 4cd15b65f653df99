#include "controlplane/core/paths/size_search.h"

#include <algorithm>

namespace penstock::paths {

void SizeSearch::run(Instant now) {
  if (ceiling_ > kBase) ask(proved_ ? low_ : ceiling_, now);
}

void SizeSearch::ask(std::uint16_t size, Instant now) {
  asking_ = size;
  tries_ = 0;
  silences_ = 0;
  next_ = now;
}

// What to ask for next, now that low_ or high_ has changed.
void SizeSearch::settle(Instant now) {
  asking_ = 0;
  const bool at_the_top = low_ == ceiling_;
  if (!at_the_top && high_ != 0) {
    const unsigned most = (high_ - 1U) / kStep;  // in steps: the largest that may still pass
    const auto middle = static_cast<std::uint16_t>((low_ / kStep + most + 1U) / 2 * kStep);
    if (middle > low_) return ask(middle, now);
  }
  searching_ = false;
  if (at_the_top)
    raise_at_ = kNever;
  else if (raise_at_ == kNever)  // not put off by confirmations
    raise_at_ = now + kRaise;
  next_ = now + kConfirm;
}

void SizeSearch::give_up(Instant now) {
  unknown_ = false;
  searching_ = true;
  high_ = asking_;
  if (asking_ <= low_) {  // what had passed does not any more
    low_ = kBase;
    proved_ = false;
  }
  settle(now);
}

std::optional<std::uint16_t> SizeSearch::poll(Instant now, Duration patience, Instant heard, bool busy) {
  if (now < next_) return std::nullopt;
  if (asking_ != 0 && tries_ == kTries) {
    // The whole path may be silent: then the last try does not count, and is made again, ever less often.
    if (heard > last_sent_) {
      give_up(now);
    } else {
      --tries_;
      silences_ = std::min(silences_ + 1, 7U);
    }
  }
  if (asking_ == 0 && now >= next_) {
    if (now >= raise_at_) {
      raise_at_ = kNever;
      high_ = 0;
      ask(ceiling_, now);
    } else if (busy && proved_) {
      ask(low_, now);
    } else {
      next_ = now + kConfirm;
    }
  }
  if (asking_ == 0 || now < next_) return std::nullopt;
  // What has passed is not given up for a moment's congestion: those tries are further apart.
  const bool confirms = proved_ && asking_ <= low_;
  next_ = now + (confirms || tries_ + 1 == kTries ? patience * (1 << silences_) : kGap);
  return asking_;
}

void SizeSearch::sent(std::uint64_t id, Instant now) {
  ids_[tries_++] = id;
  last_sent_ = now;
}

bool SizeSearch::answered(std::uint64_t id, Instant now) {
  if (asking_ == 0 || std::find(ids_.begin(), ids_.begin() + tries_, id) == ids_.begin() + tries_) return false;
  unknown_ = false;
  proved_ = true;
  low_ = std::max(low_, asking_);
  if (high_ <= low_) high_ = 0;
  settle(now);
  return true;
}

}  // namespace penstock::paths
