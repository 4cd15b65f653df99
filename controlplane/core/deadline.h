// When a state machine wants to be called again, and why (for logs, traces and tests).
#pragma once

#include "dataplane/core/base/time.h"

namespace penstock {

struct Deadline {
  Instant at = kNever;
  const char* why = "";  // a literal

  // Keeps the earlier one.
  void consider(Instant other, const char* reason) {
    if (other < at) *this = {other, reason};
  }
};

}  // namespace penstock
