#include "dataplane/io/eal.h"

#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

namespace penstock::io {
namespace {

// Free hugepages of every size, in MiB.
std::uint64_t free_hugepage_memory() {
  std::uint64_t total_kb = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/mm/hugepages", error)) {
    unsigned long size_kb = 0;
    if (std::sscanf(entry.path().filename().c_str(), "hugepages-%lukB", &size_kb) != 1) continue;
    std::uint64_t pages = 0;
    std::ifstream(entry.path() / "free_hugepages") >> pages;
    total_kb += pages * size_kb;
  }
  return total_kb / 1024;
}

bool choose_hugepages(const runtime::Config& config) {
  if (config.hugepages == runtime::Hugepages::no) return false;
  const std::uint64_t free_mb = free_hugepage_memory();
  if (free_mb >= config.memory_mb) return true;
  if (config.hugepages == runtime::Hugepages::yes)
    spdlog::warn("dpdk.hugepages is true, but only {} of {} MiB are free in hugepages: using ordinary memory", free_mb,
                 config.memory_mb);
  return false;
}

// One EAL lcore that may run wherever this process may: EAL starts no threads of its own and pins nothing.
std::string lcores_argument() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::string cpus;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus += fmt::format("{}{}", cpus.empty() ? "" : ",", cpu);
  return fmt::format("--lcores=0@({})", cpus.empty() ? "0" : cpus);
}

// DPDK's log lines go where ours go.
ssize_t write_log(void*, const char* text, size_t size) {
  std::string_view line(text, size);
  while (line.ends_with('\n')) line.remove_suffix(1);
  if (line.empty()) return static_cast<ssize_t>(size);
  const int level = rte_log_cur_msg_loglevel();
  const auto mapped = level <= static_cast<int>(RTE_LOG_ERR)       ? spdlog::level::err
                      : level == static_cast<int>(RTE_LOG_WARNING) ? spdlog::level::warn
                                                                   : spdlog::level::debug;
  spdlog::log(mapped, "dpdk: {}", line);
  return static_cast<ssize_t>(size);
}

void redirect_log() {
  FILE* stream = ::fopencookie(nullptr, "w", {.read = nullptr, .write = write_log, .seek = nullptr, .close = nullptr});
  if (stream == nullptr) return;
  ::setvbuf(stream, nullptr, _IOLBF, 1024);
  rte_openlog_stream(stream);
}

bool is_virtual(const runtime::PortDevice& port) {
  return port.device.starts_with("net_");
}

}  // namespace

std::variant<std::unique_ptr<Eal>, runtime::ConfigError> Eal::start(const runtime::Config& config) {
  std::unique_ptr<Eal> eal(new Eal);
  eal->hugepages_ = choose_hugepages(config);

  // A memif peer maps our memory by file descriptor.
  const auto& devices = config.devices;
  const bool memif = std::any_of(devices.begin(), devices.end(),
                                 [](const auto& port) { return port.device.starts_with("net_memif"); });
  std::vector<std::string> arguments = {"penstock-dataplane", "--no-telemetry",
                                        fmt::format("--file-prefix=penstock-{}", ::getpid()), lcores_argument()};
  if (memif) arguments.emplace_back("--single-file-segments");
  if (eal->hugepages_) {
    arguments.emplace_back("--in-memory");
  } else {
    arguments.emplace_back("--no-huge");
    arguments.emplace_back("-m");
    arguments.push_back(std::to_string(config.memory_mb));
    if (!memif) arguments.emplace_back("--no-shconf");
  }
  const bool all_virtual = std::all_of(devices.begin(), devices.end(), is_virtual);
  eal->buffers_anywhere_ = !eal->hugepages_ && all_virtual && !memif;
  if (all_virtual) {
    arguments.emplace_back("--no-pci");
    arguments.emplace_back("--iova-mode=va");
  } else {
    for (const auto& port : devices)
      if (!is_virtual(port)) arguments.push_back("--allow=" + port.device);
  }
  arguments.insert(arguments.end(), config.eal_arguments.begin(), config.eal_arguments.end());

  // rte_eal_init keeps and permutes what it is given.
  static std::vector<std::string> kept;
  kept = arguments;
  std::vector<char*> argv;
  for (auto& argument : kept) argv.push_back(argument.data());
  redirect_log();
  if (rte_eal_init(static_cast<int>(argv.size()), argv.data()) < 0)
    return runtime::ConfigError{config.file, "dpdk", fmt::format("DPDK does not start: {}", rte_strerror(rte_errno))};
  eal->started_ = true;
  return eal;
}

Eal::~Eal() {
  if (started_) rte_eal_cleanup();
  // EAL leaves it behind; its name holds our process id.
  const std::string directory = rte_eal_get_runtime_dir();
  std::error_code ignored;
  if (directory.find("/penstock-") != std::string::npos) std::filesystem::remove_all(directory, ignored);
}

void Eal::enter_thread() {
  if (rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() != 0)
    spdlog::warn("a thread works without its own buffer cache: {}", rte_strerror(rte_errno));
}

void Eal::leave_thread() {
  rte_thread_unregister();
}

}  // namespace penstock::io
