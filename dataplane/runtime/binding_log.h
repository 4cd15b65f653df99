// `nat.log`: what the workers' translators record, on its way to the log. One object per worker: the worker writes into
// a ring, the main thread takes it out and logs a line per record; what the ring has no room for is counted and the
// count is logged.
#pragma once

#include <atomic>
#include <string>

#include "dataplane/core/nat/binding_log.h"
#include "dataplane/runtime/ring.h"

namespace penstock::runtime {

class RingBindingLog : public nat::BindingLog {
 public:
  explicit RingBindingLog(bool destinations) : destinations_(destinations), ring_(kRecords) {}

  // Worker.
  [[nodiscard]] bool wants_destinations() const override { return destinations_; }
  void write(const nat::BindingRecord& record) override {
    if (!ring_.push(record)) lost_.fetch_add(1, std::memory_order_relaxed);
  }

  // Main thread: logs what has gathered.
  void drain();

  // "begins 1700000000.123 peer 7 udp 100.64.0.2:4000 as 203.0.113.1:4000", and " to 203.0.113.80:53" where wanted.
  [[nodiscard]] static std::string line_of(const nat::BindingRecord& record);

 private:
  static constexpr std::size_t kRecords = 16384;
  bool destinations_;
  SpscRing<nat::BindingRecord> ring_;
  std::atomic<std::uint64_t> lost_{0};
};

}  // namespace penstock::runtime
