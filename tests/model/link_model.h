// A link in one direction: delay, jitter, loss (single or in bursts), duplication, reordering, a narrow MTU, a
// bottleneck with a queue, cuts. Pure: the size of a packet and the time go in, when its copies come out comes out. It
// carries nothing itself; Network and the lab's wire do.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "dataplane/core/base/random.h"
#include "dataplane/core/base/time.h"

namespace penstock::model {

struct Link {
  Duration latency = std::chrono::milliseconds{5};
  Duration jitter{};               // up to so much more, evenly
  bool keeps_order = false;        // jitter never lets a later packet overtake an earlier one
  unsigned reorder_permille = 0;   // so many packets are held back by `reorder_by` more
  Duration reorder_by = std::chrono::milliseconds{5};
  unsigned loss_permille = 0;
  unsigned loss_burst = 1;         // packets lost in a row, on average
  unsigned duplicate_permille = 0;
  std::size_t mtu = 1500;          // of the IP packet; what is bigger is `too_big`
  std::uint64_t rate = 0;          // bytes per second; 0: no limit
  std::size_t queue = 256 * 1024;  // bytes that wait for the bottleneck; what does not fit is lost
  bool up = true;                  // false: everything is lost
};

class LinkModel {
 public:
  LinkModel() = default;
  explicit LinkModel(const Link& how) : link(how) {}

  enum class Fate : std::uint8_t { passes, lost, too_big };
  struct Passage {
    Fate fate = Fate::lost;
    unsigned copies = 0;
    std::array<Instant, 2> at{};  // of each copy
  };

  // An IP packet of `size` bytes enters. `too_big`: whether somebody is told (RFC 1191, 8201) or not (a black hole) is
  // up to the caller.
  Passage enter(std::size_t size, Instant now, Random& random) {
    Passage out;
    if (size > link.mtu) {
      out.fate = Fate::too_big;
      return out;
    }
    if (!link.up || loses(random)) return out;
    Duration wait{};
    if (link.rate != 0) {
      const Duration busy = std::max(Duration{}, free_at_ - now);
      const auto waiting = static_cast<std::uint64_t>(busy.count()) * (link.rate / 1000) / 1'000'000;
      if (waiting + size > link.queue) return out;
      free_at_ = std::max(free_at_, now) + Duration{static_cast<std::int64_t>(size * 1'000'000'000 / link.rate)};
      wait = free_at_ - now;
    }
    out.fate = Fate::passes;
    out.copies = chance(link.duplicate_permille, random) ? 2 : 1;
    for (unsigned copy = 0; copy < out.copies; ++copy) {
      const auto jitter = static_cast<std::uint32_t>(link.jitter / std::chrono::microseconds{1});
      Instant at = now + wait + link.latency;
      if (jitter != 0) at += std::chrono::microseconds{random.below(jitter + 1)};
      if (chance(link.reorder_permille, random)) {
        at += link.reorder_by;
      } else if (link.keeps_order) {
        at = std::max(at, last_);
        last_ = at;
      }
      out.at[copy] = at;
    }
    return out;
  }

  Link link;

 private:
  static bool chance(unsigned permille, Random& random) { return permille != 0 && random.below(1000) < permille; }

  // Two states (Gilbert): in the bad one everything is lost.
  bool loses(Random& random) {
    if (link.loss_permille == 0) {
      bad_ = false;
      return false;
    }
    const unsigned burst = std::max(1U, link.loss_burst);
    if (burst == 1 || link.loss_permille >= 1000) return chance(link.loss_permille, random);
    if (bad_)
      bad_ = random.below(burst) != 0;
    else
      bad_ = random.below(burst * (1000 - link.loss_permille)) < link.loss_permille;
    return bad_;
  }

  bool bad_ = false;
  Instant free_at_{};
  Instant last_{};
};

}  // namespace penstock::model
