#include "controlplane/core/paths/turn_channels.h"

#include <algorithm>

namespace penstock::paths {

bool TurnChannels::is_free(std::uint16_t number, Instant now) const {
  return std::none_of(channels_.begin(), channels_.end(), [&](const Channel& c) { return c.number == number; }) &&
         std::none_of(cooling_.begin(), cooling_.end(),
                      [&](const Cooling& c) { return c.number == number && now < c.until; });
}

TurnChannels::Channel* TurnChannels::open(const Endpoint& peer, Instant now) {
  if (channels_.size() >= kMaxChannels || find(peer) != nullptr) return nullptr;
  std::erase_if(cooling_, [&](const Cooling& c) { return now >= c.until; });
  constexpr unsigned kNumbers = stun::kLastChannel - stun::kFirstChannel + 1;
  for (unsigned tries = 0; tries < kNumbers; ++tries) {
    const std::uint16_t number = next_;
    next_ = number == stun::kLastChannel ? stun::kFirstChannel : static_cast<std::uint16_t>(number + 1);
    if (!is_free(number, now)) continue;
    channels_.push_back({.peer = peer, .number = number, .last_used = now});
    return &channels_.back();
  }
  return nullptr;
}

void TurnChannels::release(std::uint16_t number, Instant now) {
  const auto at =
      std::find_if(channels_.begin(), channels_.end(), [&](const Channel& c) { return c.number == number; });
  if (at == channels_.end()) return;
  const Instant expires = at->expires == kNever ? now + kLifetime : std::max(at->expires, now);
  cooling_.push_back({number, expires + kCooldown});
  channels_.erase(at);
}

void TurnChannels::release_all(Instant now) {
  while (!channels_.empty()) release(channels_.back().number, now);
}

void TurnChannels::expire(Instant now) {
  for (std::size_t i = channels_.size(); i-- > 0;)
    if (channels_[i].bound && now >= channels_[i].expires) release(channels_[i].number, now);
}

TurnChannels::Channel* TurnChannels::find(const Endpoint& peer) {
  const auto at = std::find_if(channels_.begin(), channels_.end(), [&](const Channel& c) { return c.peer == peer; });
  return at == channels_.end() ? nullptr : &*at;
}

TurnChannels::Channel* TurnChannels::find(std::uint16_t number) {
  const auto at =
      std::find_if(channels_.begin(), channels_.end(), [&](const Channel& c) { return c.number == number; });
  return at == channels_.end() ? nullptr : &*at;
}

}  // namespace penstock::paths
