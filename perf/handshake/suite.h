// perf-handshake: how many handshakes a thread does beside the scalar multiplications they consist of, and what a flood
// of forged ones does to data and to legitimate handshakes.
#pragma once

#include <vector>

#include "perf/rows/figures.h"

namespace penstock::perf {

// Rates of one handshake thread. Appends rows; false (after a message) when something could not be measured.
bool measure_rate(bool quick, std::vector<Figure>& rows);
// The product's engine with its threads over ports in memory, with and without a flood, in turns.
bool measure_flood(bool quick, std::vector<Figure>& rows);

}  // namespace penstock::perf
