// What perf-pipeline measures and how it prints it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "perf/harness/window.h"
#include "perf/rows/figures.h"

namespace penstock::perf {

struct Options {
  std::vector<std::string> names;
  bool quick = false;
  bool stages = false;
  std::string json;
  std::uint32_t peers = 16;
  std::uint32_t flows = 1000;
  unsigned train = 1;
  std::uint16_t workers = 1;
  std::string translation = "64";
  std::string aead = "auto";
  unsigned window_mib = 8;
  std::optional<double> seconds;
};

// 0: measured and printed; 1: a packet was lost or wrong, or the file could not be written; 2: bad names.
int run(const Options& options);

// nat64.cc: translation alone, packets ready in memory. Cycles per packet, windows of about `seconds`.
Samples measure_nat64(BenchGateway& gateway, std::uint16_t size, double seconds, std::string& wrong);

}  // namespace penstock::perf
