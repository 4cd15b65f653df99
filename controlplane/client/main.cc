// penstock-client: brings the applications of this machine to the Resources behind gateways.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>

#include "controlplane/client/client.h"
#include "controlplane/client/config.h"
#include "controlplane/io/loop.h"
#include "dataplane/core/base/resident.h"
#include "dataplane/rpc/warm_locks.h"

using namespace penstock;

int main(int argc, char** argv) {
  CLI::App app{"Penstock client: brings the applications of this machine to the Resources behind gateways"};
  std::string file;
  bool check = false;
  std::string protocol;
  app.add_option("--config", file, "configuration file (YAML)")->required();
  app.add_option("--protocol", protocol, "protocol version to speak: 1.0 or 1.1 (default: the file's, else 1.1)");
  app.add_flag("--check", check, "only check the configuration");
  app.set_version_flag("--version", PENSTOCK_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  auto loaded = client::load_config(file);
  if (const auto* error = std::get_if<client::ConfigError>(&loaded)) {
    std::fprintf(stderr, "%s: %s%s%s\n", error->file.c_str(), error->key.c_str(), error->key.empty() ? "" : ": ",
                 error->reason.c_str());
    return 2;
  }
  if (!protocol.empty()) {
    const auto version = spoken_protocol(protocol);
    if (!version) {
      std::fprintf(stderr, "--protocol: must be 1.0 or 1.1\n");
      return 2;
    }
    std::get<client::Config>(loaded).protocol = *version;
  }
  if (check) return 0;
  spdlog::set_default_logger(spdlog::stderr_color_mt("client"));

  io::Loop loop;
  // Signals are blocked before gRPC starts its threads.
  const auto terminate = loop.add_signal(SIGTERM, [&] { loop.stop(0); });
  const auto interrupt = loop.add_signal(SIGINT, [&] { loop.stop(0); });
  std::string error;
  auto process = client::Client::start(loop, std::move(std::get<client::Config>(loaded)), error);
  if (!process) {
    spdlog::error("{}", error);
    return 1;
  }
  if (!stay_in_memory()) spdlog::warn(kNotLocked);
  rpc::warm_locks_meanwhile();
  spdlog::info("penstock-client {} runs", PENSTOCK_VERSION);
  const int code = loop.run();
  process->close();
  process.reset();
  spdlog::info("ended");
  return code;
}
