#include "dataplane/core/wireguard/rate_limit.h"

#include <algorithm>

namespace penstock::wireguard {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

IpAddress masked(const IpAddress& source) {
  if (source.is_v4()) return source;
  auto octets = source.bytes();
  std::fill(octets.begin() + 8, octets.end(), std::uint8_t{0});
  return IpAddress::v6(octets);
}

// Multiply-and-fold with a secret seed; good enough to keep an attacker from aiming at one set.
std::uint64_t seeded_hash(const IpAddress& address, std::uint64_t seed) {
  std::uint64_t state = seed;
  for (std::size_t i = 0; i < 16; i += 8) {
    const std::uint64_t word = load_le<std::uint64_t>(address.bytes().data() + i);
    const auto product = static_cast<unsigned __int128>(state ^ word) * 0x9e3779b97f4a7c15ULL;
    state = static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product) ^ (seed << 1);
  }
  const auto last = static_cast<unsigned __int128>(state ^ (seed >> 7)) * 0xd6e8feb86659fd93ULL;
  return static_cast<std::uint64_t>(last >> 64) ^ static_cast<std::uint64_t>(last);
}

}  // namespace

SourceLimiter::SourceLimiter(std::size_t sets, std::uint32_t per_second, std::uint32_t burst, Random& random)
    : buckets_(sets * kWays),
      set_mask_(sets - 1),
      cost_(kSecond / std::max<std::uint32_t>(per_second, 1)),
      capacity_(cost_ * std::max<std::uint32_t>(burst, 1)),
      seed_(random.next_u64()) {}

bool SourceLimiter::allow(const IpAddress& source, Instant now) {
  const IpAddress key = masked(source);
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
  if (bucket->tokens < cost_) return false;
  bucket->tokens -= cost_;
  return true;
}

void LoadMeter::count(Instant now) {
  if (now - second_start_ >= Duration(kSecond)) {
    second_start_ = now;
    counted_ = 0;
  }
  if (++counted_ > threshold_) loaded_until_ = now + Duration(kSecond);
}

bool LoadMeter::under_load(Instant now) const {
  return now < loaded_until_;
}

}  // namespace penstock::wireguard
