// How large an inner packet may be that a path carries in both directions: Datagram Packetization Layer Path MTU
// Discovery (RFC 8899) with in-tunnel probes that are as long as the packet in question, answered by probes of the same
// length.
//
//   unknown   the ceiling (the configured inner MTU) is asked for. It counts meanwhile: most networks carry it, and a
//             smaller figure that an application is told once stays with its kernel for ten minutes
//   search    it was not answered: between what is known to pass (at first 1280, RFC 8200 §5, which every network must
//             carry) and what did not, in steps of the padding
//   found     confirmed again every kConfirm while packets flow (the way may have changed without a word: a "black
//             hole"); the ceiling is asked for again every kRaise (RFC 8899 §5.1.1, PMTU_RAISE_TIMER)
//
// A size is given up when kTries probes of it stayed without an answer although the path worked meanwhile: silence of
// the path as a whole says nothing about sizes (RFC 8899 §4.3). Sans-IO; one thread; times are monotonic.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "dataplane/core/base/time.h"

namespace penstock::paths {

class SizeSearch {
 public:
  static constexpr std::uint16_t kBase = 1280;
  static constexpr std::uint16_t kStep = 16;  // WireGuard's padding: lengths between two multiples look alike outside
  static constexpr unsigned kTries = 3;
  static constexpr Duration kGap = std::chrono::milliseconds{40};  // between tries
  static constexpr Duration kConfirm = std::chrono::seconds{10};
  static constexpr Duration kRaise = std::chrono::minutes{10};

  // `ceiling`: bytes of an inner packet. At most kBase: there is nothing to find out.
  explicit SizeSearch(std::uint16_t ceiling) : ceiling_(ceiling) {}

  // The path works (again) and is used: what was known of it is confirmed at once.
  void run(Instant now);
  // It does not, or nobody uses it.
  void stop() { next_ = kNever; }
  [[nodiscard]] bool running() const { return next_ != kNever; }

  // What may be sent now, and whether an answer has proved it.
  [[nodiscard]] std::uint16_t usable() const { return unknown_ ? ceiling_ : low_; }
  [[nodiscard]] bool proved() const { return proved_ || ceiling_ <= kBase; }
  // More than usable() may yet be found to pass.
  [[nodiscard]] bool searching() const { return searching_; }

  // The size to be asked for now. `patience`: how long an answer may take; `heard`: when anything came over the path
  // last; `busy`: packets flow.
  [[nodiscard]] std::optional<std::uint16_t> poll(Instant now, Duration patience, Instant heard, bool busy);
  void sent(std::uint64_t id, Instant now);
  [[nodiscard]] std::uint16_t asking() const { return asking_; }  // 0: nothing
  // An answer as long as its probe. False: none of ours, or late.
  bool answered(std::uint64_t id, Instant now);

  [[nodiscard]] Instant next_timeout() const { return next_; }

 private:
  void ask(std::uint16_t size, Instant now);
  void settle(Instant now);
  void give_up(Instant now);

  std::uint16_t ceiling_;
  std::uint16_t low_ = kBase;   // passes
  std::uint16_t high_ = 0;      // does not; 0: nothing known
  std::uint16_t asking_ = 0;    // 0: nothing
  bool unknown_ = true;         // no verdict about the ceiling yet
  bool proved_ = false;         // low_, by an answer
  bool searching_ = false;
  unsigned tries_ = 0;
  unsigned silences_ = 0;  // how often in a row the path as a whole was silent
  std::array<std::uint64_t, kTries> ids_{};
  Instant last_sent_{};
  Instant raise_at_ = kNever;
  Instant next_ = kNever;
};

}  // namespace penstock::paths
