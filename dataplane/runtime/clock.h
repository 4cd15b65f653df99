// The operating system's clocks as the core's Now. Any thread.
#pragma once

#include "dataplane/core/base/time.h"

namespace penstock::runtime {

[[nodiscard]] Now read_clock();

}  // namespace penstock::runtime
