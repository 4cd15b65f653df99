#include <CLI/CLI.hpp>
#include <cstdio>

#include "perf/handshake/suite.h"

int main(int argc, char** argv) {
  CLI::App app{"Handshakes: rate beside X25519, and behaviour under a flood"};
  bool quick = false, rate_only = false;
  std::string json;
  app.add_flag("--quick", quick, "shorter windows");
  app.add_flag("--rate-only", rate_only, "without the flood");
  app.add_option("--json", json, "write one JSON object per figure to this file");
  CLI11_PARSE(app, argc, argv);
  std::vector<penstock::perf::Figure> rows;
  bool ok = penstock::perf::measure_rate(quick, rows);
  if (ok && !rate_only) ok = penstock::perf::measure_flood(quick, rows);
  if (!penstock::perf::write_json(json, rows)) {
    std::fprintf(stderr, "perf-handshake: %s: cannot be written\n", json.c_str());
    return 1;
  }
  return ok ? 0 : 1;
}
