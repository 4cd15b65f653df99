// perf-handshake: how many handshakes a thread does beside the scalar multiplications they consist of.
#pragma once

#include <vector>

#include "perf/rows/rows.h"

namespace penstock::perf {

// Rates of one thread as responder. Appends rows; false (after a message) when something could not be measured.
bool measure_rate(bool quick, std::vector<Row>& rows);

}  // namespace penstock::perf
