// perf-pipeline: the whole gateway path of one worker (or several) at its limit. See README.md.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "dataplane/runtime/rcu.h"
#include "perf/pipeline/suite.h"

int main(int argc, char** argv) {
  using namespace penstock::perf;
  CLI::App app{"Measures the packet path of the gateway: real worker loops, every check on, ports in memory."};
  Options options;
  app.add_option("names", options.names,
                 "what to measure: up/64 up/imix up/1420, the same with down/; nat64/64 nat64/1420; with two workers "
                 "cores/up/64 cores/up/1420 fat/up/64 fat/up/1420 and the same with down/; none: all");
  app.add_flag("--quick", options.quick, "a second per name instead of three");
  app.add_option("--json", options.json, "write the figures to this file");
  app.add_option("--peers", options.peers, "peers with sessions")->check(CLI::Range(1U, 1U << 21));
  app.add_option("--flows", options.flows, "flows, spread over the peers")->check(CLI::Range(1U, 16U << 20));
  app.add_option("--train", options.train, "packets of one flow in a row")->check(CLI::Range(1U, 1024U));
  app.add_option("--workers", options.workers, "worker threads, each with a core and input of its own")
      ->check(CLI::Range(1, 16));
  app.add_option("--translation", options.translation, "64, 46, 44 or 66: family inside, family outside")
      ->check(CLI::IsMember({"64", "46", "44", "66"}));
  app.add_option("--aead", options.aead, "backend: auto, lanes, ipsec-mb or openssl");
  app.add_option("--window", options.window_mib, "MiB of buffers that a window fills")->check(CLI::Range(1U, 4096U));
  app.add_option("--seconds", options.seconds, "how long to measure each name");
  app.add_flag("--stages", options.stages, "cycles of each stage");
  CLI11_PARSE(app, argc, argv);
  const penstock::runtime::rcu::ThreadRegistration registration;
  return run(options);
}
