#include "dataplane/core/wireguard/rate_limit.h"

#include <algorithm>

#include "dataplane/core/wireguard/source_key.h"

namespace penstock::wireguard {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

}  // namespace

SourceLimiter::SourceLimiter(std::size_t sets, std::uint32_t per_second, std::uint32_t burst, Random& random)
    : buckets_(sets * kWays, Pages::small),
      set_mask_(sets - 1),
      cost_(std::max<std::int64_t>(kSecond / std::max<std::uint32_t>(per_second, 1), 1)),
      capacity_(cost_ * std::max<std::uint32_t>(burst, 1)),
      seed_(random.next_u64()) {}

bool SourceLimiter::allow(const IpAddress& source, Instant now, std::uint32_t peers) {
  const IpAddress key = source_network(source);
  Bucket* const set = &buckets_[(seeded_hash(key, seed_) & set_mask_) * kWays];
  Bucket* bucket = nullptr;
  for (std::size_t i = 0; i < kWays && bucket == nullptr; ++i) {
    if (set[i].used && set[i].source == key) bucket = &set[i];
  }
  if (bucket == nullptr) {
    bucket = std::min_element(set, set + kWays, [](const Bucket& a, const Bucket& b) {
      return a.used != b.used ? !a.used : a.filled_at < b.filled_at;
    });
    *bucket = Bucket{key, now, capacity_, true};
  }
  const std::int64_t passed = std::max<std::int64_t>((now - bucket->filled_at).count(), 0);
  bucket->tokens = std::min(capacity_, bucket->tokens + std::min(passed, capacity_));
  bucket->filled_at = now;
  const std::int64_t cost = std::max<std::int64_t>(cost_ / std::max<std::uint32_t>(peers, 1), 1);
  if (bucket->tokens < cost) return false;
  bucket->tokens -= cost;
  return true;
}

void LoadMeter::count(Instant now) {
  if (now - second_start_ >= Duration(kSecond)) {
    second_start_ = now;
    counted_ = 0;
  }
  if (++counted_ > threshold_) loaded_until_ = now + Duration(kSecond);
}

bool LoadMeter::over(Instant now) const {
  return counted_ > threshold_ && now - second_start_ < Duration(kSecond);
}

bool LoadMeter::under_load(Instant now) const {
  return now < loaded_until_;
}

ReplyLimiter::ReplyLimiter(std::uint32_t per_second, std::uint32_t burst)
    : interval_(kSecond / std::max<std::uint32_t>(per_second, 1)),
      depth_(interval_ * static_cast<std::int64_t>(std::max<std::uint32_t>(burst, 1))) {}

bool ReplyLimiter::take(Instant now) {
  if (!available(now)) return false;
  next_ = std::max(next_, now) + interval_;
  return true;
}

bool ReplyLimiter::available(Instant now) const {
  return std::max(next_, now) - now <= depth_ - interval_;
}

}  // namespace penstock::wireguard
