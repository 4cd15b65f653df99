// penstock-gateway: the data plane's control process.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "controlplane/gateway/config.h"
#include "controlplane/gateway/gateway.h"
#include "controlplane/io/loop.h"
#include "dataplane/core/base/resident.h"
#include "dataplane/rpc/warm_locks.h"

using namespace penstock;

int main(int argc, char** argv) {
  CLI::App app{"Penstock gateway: control process of the data plane"};
  std::string file;
  bool check = false;
  std::string protocol;
  app.add_option("--config", file, "configuration file (YAML)")->required();
  app.add_option("--protocol", protocol, "protocol version to speak: 1.0 or 1.1 (default: the file's, else 1.1)");
  app.add_flag("--check", check, "only check the configuration");
  app.set_version_flag("--version", PENSTOCK_VERSION);
  CLI11_PARSE(app, argc, argv);

  auto loaded = gateway::load_config(file);
  if (const auto* error = std::get_if<gateway::ConfigError>(&loaded)) {
    std::fprintf(stderr, "%s: %s%s%s\n", file.c_str(), error->key.c_str(), error->key.empty() ? "" : ": ",
                 error->reason.c_str());
    return 2;
  }
  if (!protocol.empty()) {
    const auto version = spoken_protocol(protocol);
    if (!version) {
      std::fprintf(stderr, "--protocol: must be 1.0 or 1.1\n");
      return 2;
    }
    std::get<gateway::Config>(loaded).agent.protocol = *version;
  }
  if (check) return 0;
  spdlog::set_default_logger(spdlog::stderr_color_mt("gateway"));

  io::Loop loop;
  // Signals are blocked before gRPC and c-ares start their threads.
  const auto terminate = loop.add_signal(SIGTERM, [&] { loop.stop(0); });
  const auto interrupt = loop.add_signal(SIGINT, [&] { loop.stop(0); });
  std::string error;
  const auto fatal = [&](const std::string& why) {
    spdlog::error("{}", why);
    loop.stop(1);
  };
  auto process = gateway::Gateway::start(loop, std::move(std::get<gateway::Config>(loaded)), fatal, error);
  if (!process) {
    std::fprintf(stderr, "%s: %s\n", file.c_str(), error.c_str());
    return 2;
  }
  if (!stay_in_memory()) spdlog::warn(kNotLocked);
  rpc::warm_locks_meanwhile();
  spdlog::info("penstock-gateway {} started", PENSTOCK_VERSION);
  const int code = loop.run();
  process->finish();
  process.reset();
  spdlog::info("ended");
  return code;
}
