#include "dataplane/io/open.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "dataplane/io/fanout.h"
#include "dataplane/io/kernel_tap.h"
#include "dataplane/io/pool.h"
#include "dataplane/io/port.h"
#include "dataplane/runtime/numa.h"

namespace penstock::io {

std::variant<runtime::Engine::Parts, runtime::ConfigError> open_parts(runtime::Config& config, Eal& eal) {
  runtime::Engine::Parts parts;
  parts.platform = &eal;

  std::uint16_t largest_mtu = 1500;
  for (const auto& port : config.path.ports) largest_mtu = std::max(largest_mtu, port.mtu);
  // A pool for every node that workers are pinned to; where nothing is pinned or known, one for all.
  std::vector<std::optional<unsigned>> node_of(config.workers);
  std::vector<unsigned> nodes;
  for (std::uint16_t i = 0; i < config.workers && !config.cores.empty(); ++i) {
    node_of[i] = runtime::node_of_cpu(config.cores[i]);
    if (node_of[i] && std::ranges::find(nodes, *node_of[i]) == nodes.end()) nodes.push_back(*node_of[i]);
  }
  auto pool = MbufPool::make(largest_mtu, config.memory_mb, nodes, eal.buffers_anywhere());
  if (const auto* error = std::get_if<std::string>(&pool))
    return runtime::ConfigError{config.file, "dpdk.memory_mb", *error};
  auto& made = std::get<std::unique_ptr<MbufPool>>(pool);
  std::vector<rte_mempool*> mempools;
  for (const auto& node : node_of) mempools.push_back(made->mempool(node));
  parts.pool = std::move(made);

  const KeepFragments keep_fragments;
  for (std::size_t i = 0; i < config.devices.size(); ++i) {
    auto port = DpdkPort::open(config.devices[i], config.path.ports[i], mempools);
    if (const auto* error = std::get_if<std::string>(&port))
      return runtime::ConfigError{config.file, fmt::format("ports[{}].device", i), *error};
    parts.ports.push_back(std::move(std::get<std::unique_ptr<DpdkPort>>(port)));
    config.path.ports[i].mac = parts.ports.back()->mac();
  }

  if (!config.exception_tap.empty()) {
    auto tap = KernelTap::open(config.exception_tap);
    if (const auto* error = std::get_if<std::string>(&tap))
      return runtime::ConfigError{config.file, "exception.tap", *error};
    auto& device = std::get<std::unique_ptr<KernelTap>>(tap);
    config.path.exception.mac = device->mac();
    parts.kernel = std::move(device);
  }
  return parts;
}

}  // namespace penstock::io
