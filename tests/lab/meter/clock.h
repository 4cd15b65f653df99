// Time for the meter: the wall clock for records, absolute deadlines on the monotonic clock for pacing.
#pragma once

#include <poll.h>
#include <sched.h>

#include <cstdint>
#include <ctime>

namespace penstock::meter {

inline constexpr std::int64_t kSecond = 1'000'000'000;

inline std::int64_t read_clock(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}
inline std::int64_t wall() {
  return read_clock(CLOCK_REALTIME);
}
inline std::int64_t monotonic() {
  return read_clock(CLOCK_MONOTONIC);
}

// Ticks at a fixed rate from `start`; what was missed is made up for at once, so the rate holds over time.
class Pace {
 public:
  Pace(std::int64_t start, std::int64_t rate) : start_(start), rate_(rate) {}
  [[nodiscard]] std::int64_t next() const { return start_ + count_ * kSecond / rate_; }
  [[nodiscard]] bool due(std::int64_t now) const { return now >= next(); }
  void tick() { ++count_; }
  // After a pause: nothing is made up for.
  void resume(std::int64_t now) {
    start_ = now;
    count_ = 0;
  }

 private:
  std::int64_t start_, rate_, count_ = 0;
};

// Waits for one of the descriptors or the deadline (monotonic).
inline int wait(pollfd* descriptors, nfds_t count, std::int64_t deadline) {
  const std::int64_t left = deadline - monotonic();
  const timespec timeout = left > 0 ? timespec{left / kSecond, left % kSecond} : timespec{};
  return ppoll(descriptors, count, &timeout, nullptr);
}

// A meter that is kept waiting for a processor measures the machine, not the tunnel.
inline bool become_prompt() {
  sched_param parameters{};
  parameters.sched_priority = 10;
  return sched_setscheduler(0, SCHED_FIFO, &parameters) == 0;
}

}  // namespace penstock::meter
