// penstock-portal: introduces clients and gateways to each other.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "controlplane/io/loop.h"
#include "controlplane/portal/config.h"
#include "controlplane/portal/portal.h"
#include "dataplane/core/base/resident.h"
#include "dataplane/rpc/warm_locks.h"

using namespace penstock;

namespace {

void complain(const std::string& file, const portal::ConfigError& error) {
  std::fprintf(stderr, "%s: %s%s%s\n", file.c_str(), error.key.c_str(), error.key.empty() ? "" : ": ",
               error.reason.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Penstock portal: introduces clients and gateways to each other"};
  std::string file;
  bool check = false;
  app.add_option("--config", file, "configuration file (YAML)")->required();
  app.add_flag("--check", check, "only check the configuration");
  app.set_version_flag("--version", PENSTOCK_VERSION);
  CLI11_PARSE(app, argc, argv);

  auto loaded = portal::load_config(file);
  if (const auto* error = std::get_if<portal::ConfigError>(&loaded)) {
    complain(file, *error);
    return 2;
  }
  if (check) return 0;
  spdlog::set_default_logger(spdlog::stderr_color_mt("portal"));

  io::Loop loop;
  // Signals are blocked before gRPC starts its threads.
  const auto terminate = loop.add_signal(SIGTERM, [&] { loop.stop(0); });
  const auto interrupt = loop.add_signal(SIGINT, [&] { loop.stop(0); });
  std::unique_ptr<portal::Portal> process;
  const auto hangup = loop.add_signal(SIGHUP, [&] {
    auto again = portal::load_config(file);
    if (const auto* error = std::get_if<portal::ConfigError>(&again))
      spdlog::error("not reloaded: {}: {}{}{}", file, error->key, error->key.empty() ? "" : ": ", error->reason);
    else if (process)
      process->reload(std::move(std::get<portal::Config>(again)));
  });

  std::string error;
  process = portal::Portal::start(loop, std::move(std::get<portal::Config>(loaded)), error);
  if (!process) {
    std::fprintf(stderr, "%s: %s\n", file.c_str(), error.c_str());
    return 2;
  }
  if (!stay_in_memory()) spdlog::warn(kNotLocked);
  rpc::warm_locks_meanwhile();
  spdlog::info("penstock-portal {} listens on port {}", PENSTOCK_VERSION, process->port());
  const int code = loop.run();
  process.reset();
  spdlog::info("ended");
  return code;
}
