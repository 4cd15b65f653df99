// Machines and processes of the simulation. A machine may be off or asleep: then it hears nothing and none of its
// timers fires; what it was sent is lost. A process may be stopped (SIGSTOP): what its inputs bring waits; or killed:
// it is gone with everything on its way to it.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/model/network.h"

namespace penstock::model {

class Process {
 public:
  // Runs `work` now, or when the process goes on, or never when it has ended.
  void deliver(std::function<void()> work) {
    if (dead_) return;
    if (stopped_)
      waiting_.push_back(std::move(work));
    else
      work();
  }
  void stop() { stopped_ = true; }
  void go_on() {
    stopped_ = false;
    for (auto& work : std::exchange(waiting_, {}))
      if (!dead_) work();
  }
  void end() {
    dead_ = true;
    waiting_.clear();
  }
  [[nodiscard]] bool responsive() const { return !dead_ && !stopped_; }
  [[nodiscard]] bool ended() const { return dead_; }

 private:
  bool stopped_ = false;
  bool dead_ = false;
  std::vector<std::function<void()>> waiting_;
};

class Host : public Node {
 public:
  explicit Host(Network& network) : network_(network) {}

  bool on = true;
  Duration wall_offset{};  // of this machine's clock

  // The time as this machine's processes see it.
  [[nodiscard]] Now here() const { return here(network_.now()); }

 protected:
  [[nodiscard]] Now here(Now now) const {
    const auto total = std::chrono::seconds{now.wall.seconds} + std::chrono::nanoseconds{now.wall.nanoseconds} +
                       wall_offset;
    now.wall = {static_cast<std::uint64_t>(total / std::chrono::seconds{1}),
                static_cast<std::uint32_t>(total % std::chrono::seconds{1} / std::chrono::nanoseconds{1})};
    return now;
  }

  Network& network_;
};

// Runs `work` for `process` at `at`.
inline void later(Network& network, Instant at, const std::shared_ptr<Process>& process, std::function<void()> work,
                  Node* only) {
  network.schedule(
      at,
      [process, work = std::move(work)]() mutable {
        process->deliver(std::move(work));
      },
      only);
}

}  // namespace penstock::model
