// The event loop of a control process: file descriptors, timers, signals and work posted by other threads, over
// sd-event.
//
// Theory of operation. One loop, one thread: everything but post() and stop() belongs to the thread that calls run().
// Sources are values that own their registration: destroying (or moving from) one removes it, also from inside its own
// callback. The clock is CLOCK_BOOTTIME, so that deadlines pass while the machine is suspended (a tunnel is as dead
// after a suspend as after waiting), and now() pairs it with the wall clock for what must be comparable between
// machines. Timers are one-shot and armed with an Instant; an instant in the past fires at the next turn, and a timer
// that has fired stays quiet until it is armed again, so that a forgotten one cannot spin.
//
// A Loop makes its process ignore SIGPIPE: a library that writes to a connection which the other end has closed (OpenSSL
// does, with no flag against it) reports the error instead of ending the process without a word.
//
// Registration fails only when descriptors or memory run out, which a process cannot survive at start-up: it ends
// with a message (std::system_error).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "dataplane/core/base/time.h"

namespace penstock::io {

class Loop {
 public:
  // Owns one registration. Default-constructed: none.
  class Source {
   public:
    Source();
    Source(Source&&) noexcept;
    Source& operator=(Source&&) noexcept;
    ~Source();

    // For descriptors: which of EPOLLIN, EPOLLOUT to wait for; 0 keeps the registration silent.
    void set_events(std::uint32_t events);
    [[nodiscard]] bool active() const { return record_ != nullptr; }
    void reset();

   private:
    friend class Loop;
    struct Record;
    explicit Source(std::shared_ptr<Record> record);
    std::shared_ptr<Record> record_;
  };

  class Timer {
   public:
    Timer() = default;
    // Fires once at `at`; kNever disarms. Arming again replaces the earlier deadline.
    void set(Instant at);

   private:
    friend class Loop;
    Source source_;
  };

  Loop();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Runs until stop(); returns its code.
  int run();
  // Any thread. The turn under way is finished first.
  void stop(int code);
  // Runs what is due, waiting at most `timeout`; true when something ran. For tests and for draining at exit.
  bool run_once(Duration timeout);

  // Current time of the clocks, not of the last wake-up.
  [[nodiscard]] static Now now();

  // `events`: EPOLLIN, EPOLLOUT; the callback gets those that are ready (also EPOLLERR, EPOLLHUP). The descriptor stays
  // the caller's and must outlive the Source. Level-triggered.
  [[nodiscard]] Source add_fd(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback);
  [[nodiscard]] Timer add_timer(std::function<void()> callback);
  // Blocks the signal for the calling thread: call before other threads start.
  [[nodiscard]] Source add_signal(int signal, std::function<void()> callback);
  // Called at the end of every turn in which anything ran: the place to drain outputs and arm timers once.
  [[nodiscard]] Source add_after_turn(std::function<void()> callback);

  // Any thread: `work` runs on the loop's thread, in order of posting. Work posted after run() has returned is dropped
  // with the loop.
  void post(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::io
