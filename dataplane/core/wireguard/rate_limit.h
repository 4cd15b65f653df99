// Handshake load (handshake_gate.h): how much there is in all, and per source (IPv4 /32, IPv6 /64). One thread.
//
// One noisy source must not put everybody under load, and a flood from forged sources must not lock out those who can
// prove theirs. So there are two sets of token buckets: `unproved` for any message with a valid mac1 (empty: this
// source must show a cookie), and `proved` for those that showed one (empty: dropped). Only messages that pass their
// own source's bucket count towards the load of all.
//
// Memory is bounded: buckets live in a set-associative table with a seeded hash, the least recently used of a set makes
// room. A displaced source starts with a full bucket.
#pragma once

#include <cstdint>

#include "dataplane/core/base/address.h"
#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"
#include "dataplane/core/wireguard/zeroed_array.h"

namespace penstock::wireguard {

class SourceLimiter {
 public:
  // `sets`: a power of two; memory is sets × 8 × 32 bytes. Rates above a message per nanosecond are that.
  SourceLimiter(std::size_t sets, std::uint32_t per_second, std::uint32_t burst, Random& random);

  // Takes a token of the source's bucket; false when there is none. A source that stands for `peers` of them (a NAT)
  // has that many times the rate and burst.
  bool allow(const IpAddress& source, Instant now, std::uint32_t peers = 1);

 private:
  static constexpr std::size_t kWays = 8;
  struct Bucket {
    IpAddress source{};  // masked
    Instant filled_at{};
    std::int64_t tokens = 0;  // in nanoseconds of refill time
    bool used = false;
  };

  ZeroedArray<Bucket> buckets_;
  std::size_t set_mask_;
  std::int64_t cost_;      // nanoseconds per token
  std::int64_t capacity_;  // nanoseconds
  std::uint64_t seed_;
};

// Counts messages per second; under load from the moment a second's count passes the threshold until a whole second
// stayed below it.
class LoadMeter {
 public:
  explicit LoadMeter(std::uint32_t per_second) : threshold_(per_second) {}

  void count(Instant now);
  [[nodiscard]] bool under_load(Instant now) const;
  // This second's count has passed the threshold: counting on would change nothing before the next.
  [[nodiscard]] bool over(Instant now) const;

 private:
  std::uint32_t threshold_;
  std::uint32_t counted_ = 0;
  Instant second_start_{};
  Instant loaded_until_{};
};

// So many per second in all, in bursts (GCRA: one word of state).
class ReplyLimiter {
 public:
  ReplyLimiter(std::uint32_t per_second, std::uint32_t burst);
  bool take(Instant now);
  [[nodiscard]] bool available(Instant now) const;

 private:
  Duration interval_;
  Duration depth_;
  Instant next_ = Instant::min();
};

}  // namespace penstock::wireguard
