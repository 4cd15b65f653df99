// Memory near the core that uses it, on machines whose memory is in several places (NUMA).
//
// A page comes from the place that the thread's policy says when it is first touched. What a worker owns is made, and its
// pages are mapped ahead, by other threads: they say here for whom.
#pragma once

#include <array>
#include <climits>
#include <optional>

namespace penstock::runtime {

// The node that a processor belongs to; nullopt: the system does not say.
[[nodiscard]] std::optional<unsigned> node_of_cpu(unsigned cpu);

// While it lives, pages that this thread is the first to touch come from `node`, as long as that has any. nullopt: from
// wherever the thread runs, as usual. A wish only; afterwards the thread's policy is what it was.
class OnNode {
 public:
  explicit OnNode(std::optional<unsigned> node);
  ~OnNode();
  OnNode(const OnNode&) = delete;
  OnNode& operator=(const OnNode&) = delete;

 private:
  static constexpr unsigned kBits = sizeof(unsigned long) * CHAR_BIT;
  static constexpr unsigned kMaxNodes = 1024;  // as many as Linux may have
  using Nodes = std::array<unsigned long, kMaxNodes / kBits>;

  bool set_ = false;
  int mode_before_ = 0;
  Nodes nodes_before_{};
};

}  // namespace penstock::runtime
