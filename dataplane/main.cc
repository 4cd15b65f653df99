// penstock-dataplane: reads its configuration, opens the ports, runs the engine until it is told to end.
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>

#include "dataplane/core/base/resident.h"
#include "dataplane/io/eal.h"
#include "dataplane/io/handover_link.h"
#include "dataplane/io/open.h"
#include "dataplane/rpc/server.h"
#include "dataplane/rpc/warm_locks.h"
#include "dataplane/runtime/clock.h"
#include "dataplane/runtime/config.h"
#include "dataplane/runtime/config_static.h"
#include "dataplane/runtime/engine.h"
#include "dataplane/runtime/key_file.h"
#include "dataplane/runtime/policy_store.h"
#include "dataplane/warm_start.h"

namespace penstock {
namespace {

constexpr int kBadConfiguration = 2;

int refuse(const runtime::ConfigError& error) {
  std::fprintf(stderr, "%s\n", error.to_string().c_str());
  return kBadConfiguration;
}

// SIGTERM and SIGINT are read from a descriptor; no thread is interrupted by them.
int block_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// Waits up to `timeout_ms` for a signal to end.
bool told_to_end(int signals, int timeout_ms) {
  pollfd wait{signals, POLLIN, 0};
  if (::poll(&wait, 1, timeout_ms) <= 0) return false;
  signalfd_siginfo info{};
  return ::read(signals, &info, sizeof info) == sizeof info;
}

int run(const std::string& file, int signals) {
  auto loaded = runtime::load_config(file);
  if (const auto* error = std::get_if<runtime::ConfigError>(&loaded)) return refuse(*error);
  auto& config = std::get<runtime::Config>(loaded);
  auto key = runtime::read_or_create_private_key(config.private_key_file);
  if (const auto* error = std::get_if<runtime::KeyFileError>(&key))
    return refuse({file, "private_key_file", error->reason});

  io::HandoverLink link(config.control_socket + ".handover",
                        std::chrono::duration_cast<std::chrono::milliseconds>(config.handover));

  auto eal = io::Eal::start(config);
  if (const auto* error = std::get_if<runtime::ConfigError>(&eal)) return refuse(*error);
  auto& platform = *std::get<std::unique_ptr<io::Eal>>(eal);
  auto parts = io::open_parts(config, platform);
  if (const auto* error = std::get_if<runtime::ConfigError>(&parts)) return refuse(*error);
  auto created = runtime::Engine::create(config, std::get<runtime::KeyBytes>(key),
                                         std::move(std::get<runtime::Engine::Parts>(parts)));
  if (const auto* error = std::get_if<runtime::ConfigError>(&created)) return refuse(*error);
  auto& engine = *std::get<std::unique_ptr<runtime::Engine>>(created);

  runtime::PolicyStore store(engine, config.pools, {.max_peers = config.max_peers},
                             runtime::own_addresses(engine.path()));
  take_up(link, engine, store, [&] {
    const auto applied = store.apply({.operations = config.static_operations}, runtime::PolicyStore::Origin::file);
    for (const auto& error : applied.errors)
      spdlog::error("{}: {}: {}", file, config.static_keys[error.index], error.message);
  });
  engine.start();

  std::string socket_error;
  auto server = rpc::make_rpc_server(
      engine, store, {.socket = config.control_socket, .allowed_uids = config.allowed_uids}, socket_error);
  if (!server) return refuse({file, "control.socket", socket_error});

  for (const auto& port : engine.ports())
    spdlog::info("port {}: {}, link {}, mtu {}", port.name, port.driver, port.stats.link_up ? "up" : "down", port.mtu);
  spdlog::info("ready: public key {}, listening on port {}, {} workers, {} memory, {} of {} buffers free",
               runtime::format_key(engine.info().public_key), engine.info().listen_port, config.workers,
               platform.hugepages() ? "hugepage" : "ordinary", engine.ports().front().pool.free,
               engine.ports().front().pool.size);
  ::sd_notify(0, "READY=1\nSTATUS=ready");
  if (!stay_in_memory()) spdlog::warn(kNotLocked);  // all libraries are there
  rpc::warm_locks_meanwhile();

  constexpr int kTurnMs = 100;
  while (!told_to_end(signals, kTurnMs)) {
    engine.maintain();
    if (const auto expiry = store.next_expiry())
      if (const WallTime wall = runtime::read_clock().wall; *expiry <= wall) store.expire(wall);
  }
  ::sd_notify(0, "STOPPING=1");
  spdlog::info("ending");
  server.reset();
  leave_behind(link, engine, store);
  const auto pool = engine.ports().front().pool;
  spdlog::info("ended: {} of {} buffers free", pool.free, pool.size);
  return 0;
}

int check(const std::string& file) {
  const auto loaded = runtime::load_config(file);
  if (const auto* error = std::get_if<runtime::ConfigError>(&loaded)) return refuse(*error);
  const auto& config = std::get<runtime::Config>(loaded);
  std::printf("%s: ok: %zu ports, %u workers, %zu static entries\n", file.c_str(), config.path.ports.size(),
              unsigned{config.workers}, config.static_operations.size());
  return 0;
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  CLI::App app("Penstock's data plane: WireGuard, policy and address translation on DPDK ports");
  std::string file = "/etc/penstock/dataplane.yaml";
  bool only_check = false;
  std::string log_level = "info";
  app.add_option("--config", file, "configuration file")->capture_default_str();
  app.add_flag("--check", only_check, "check the configuration and exit");
  app.add_option("--log-level", log_level, "trace, debug, info, warn, err or off")
      ->capture_default_str()
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "err", "off"}));
  app.set_version_flag("--version", "penstock-dataplane " PENSTOCK_VERSION);
  CLI11_PARSE(app, argc, argv);

  spdlog::set_default_logger(spdlog::stderr_logger_mt("penstock"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::set_level(spdlog::level::from_str(log_level));
  spdlog::flush_on(spdlog::level::info);
  if (only_check) return penstock::check(file);
  return penstock::run(file, penstock::block_signals());
}
